"""Announce a new generation inside a complete group of ranks, so that all ranks change at the same step.

Before a step, rank 0 sends one small message to all other ranks of the group; every rank receives it before its next
step. The message travels during the step. It costs about 0.2 ms of CPU time, so short steps have one now and then: the
message says before which step rank 0 will send the next. It also says whether the next generation begins now; then its
target follows, and where its ranks meet. All ranks get the same message or lose the group, so they never disagree. No
file is involved, because each node may see files at other times.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from powerflow.elastic.mailbox import Target

#: Shortest time between two messages, as far as `MOST_STEPS` allows: a new generation may come that much later.
EVERY_S = 0.05
#: Most steps from one message to the next.
MOST_STEPS = 8
_PLACE_BYTES = 256


class Announcements:
    """The messages of rank 0 to the ranks of one group.

    All ranks must call the methods in the same order, with the same steps.
    """

    def __init__(self, step: int) -> None:
        """Begin with the first step of a new group."""
        self._due = self._at = step
        self._sent_s: tuple[int, float] | None = None  # step and time of the last message
        self._word: Tensor | None = None
        self._work: dist.Work | None = None
        self._payload = b""

    def is_due(self, step: int) -> bool:
        """Return True if `send` must be called before this step."""
        return step >= self._due

    def send(self, step: int, rank: int, target: Target | None) -> None:
        """Begin to send a message (rank 0) or to receive it (other ranks). It ends with `receive`.

        Args:
            step: Number of the step that comes next.
            rank: Number of this rank.
            target: On rank 0: the generation that shall begin after this step; None for none.

        Raises:
            RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
        """
        self._at = step
        self._payload = b"" if target is None else target.encode()
        self._word = torch.tensor([len(self._payload), self._steps_to_next(step) if rank == 0 else 0])
        self._work = dist.broadcast(self._word, 0, async_op=True)

    def receive(self, rank: int) -> Target | None:
        """Return the generation that begins now; None if none does.

        Raises:
            RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
        """
        if self._work is None or self._word is None:
            return None
        self._work.wait()
        self._work = None
        length, steps = self._word.tolist()
        self._due = self._at + steps
        if not length:
            return None
        return Target.decode(_broadcast(self._payload, length, 0, rank))

    @staticmethod
    def share_place(place: Mapping[str, Any] | None, source: int, rank: int) -> Mapping[str, Any]:
        """Send a place, where the ranks of the next generation meet, from rank ``source`` to all others.

        Args:
            place: The place on rank ``source``.
            source: Number of the rank that knows the place.
            rank: Number of this rank.

        Raises:
            RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
        """
        text = json.dumps(place).encode() if rank == source else b""
        found: dict[str, Any] = json.loads(_broadcast(text.ljust(_PLACE_BYTES), _PLACE_BYTES, source, rank))
        return found

    @property
    def has_arrived(self) -> bool:
        """True if `receive` will not wait."""
        return self._work is None or self._work.is_completed()

    def _steps_to_next(self, step: int) -> int:
        """Return the number of steps until the next message, chosen by the time that the last steps took."""
        before, now_s = self._sent_s, time.monotonic()
        self._sent_s = (step, now_s)
        if before is None or step <= before[0]:
            return 1
        step_s = (now_s - before[1]) / (step - before[0])
        return min(MOST_STEPS, max(1, math.ceil(EVERY_S / max(step_s, 1e-6))))


def _broadcast(text: bytes, length: int, source: int, rank: int) -> bytes:
    tensor = torch.tensor(list(text) if rank == source else [0] * length, dtype=torch.uint8)
    dist.broadcast(tensor, source)
    return bytes(tensor.tolist())
