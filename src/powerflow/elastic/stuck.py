"""Detect a deadlock: one rank calls a collective alone, while the other ranks wait for this rank in a step.

This happens with ``compute()`` of torchmetrics, and with ``dist.all_reduce`` inside ``if run.rank == 0``. A thread
checks regularly which code the script executes. A long wait alone is no proof of a deadlock. In a deadlock, the script
of this rank is inside torch.distributed. And another rank waits for this rank, to exchange gradients in a step or to
end the training.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType

from powerflow.elastic.gang import GangMember
from powerflow.elastic.mailbox import Phase
from powerflow.elastic.refusal import is_script

#: Seconds that the stuck rank must have been in the collective before it looks for ranks that wait for it.
BOTH_S = 5.0
#: Seconds for which it must then see that they wait.
WAITS_S = 2.0
#: Phases in which a rank waits for the other ranks of its generation.
_WAITS = (Phase.SYNCING, Phase.DONE)
#: Phases in which PowerFlow itself uses torch.distributed, or nothing does.
_OURS = (Phase.STARTING, Phase.READY, Phase.SYNCING, Phase.REGROUPING, Phase.BROKEN, Phase.RELEASED, Phase.DONE)


class StuckWatch:
    """Ends this process with a one-line message if its script is in a collective that the other ranks do not join."""

    def __init__(self, gang: GangMember) -> None:
        self._gang = gang
        self._script = threading.get_ident()
        self._since: tuple[object, float] | None = None
        self._waits: dict[str, tuple[object, float]] = {}  # waits of other ranks, and when this rank first saw them

    def look(self) -> None:
        """End this process if its script waits in a collective that the other ranks do not join.

        Call this about once a second, from a thread other than the script's.
        """
        gang = self._gang
        frame = sys._current_frames().get(self._script)
        call = None if gang.reporter.phase in _OURS or gang.ranks < 2 else _collective(frame)
        if call is None:
            self._since = None
            return
        where = (call, gang.generation, gang.training.position.step)
        now = time.monotonic()
        if self._since is None or self._since[0] != where:
            self._since = (where, now)
        elif now - self._since[1] > BOTH_S and (others := self._who_wait()):
            self._end(call, others)

    def _who_wait(self) -> list[int]:
        """Return the numbers of the ranks that wait for this rank.

        A rank waits in an exchange of gradients, or after it has trained all training epochs.
        """
        gang = self._gang
        step = gang.training.position.step
        if gang.target is None or gang.exchanged == step:  # this rank has exchanged already
            return []
        names = [member.name for member in gang.target.members]
        found, now = [], time.monotonic()
        for report in gang.mailbox.reports(names):
            waits = report.generation == gang.generation and report.step == step and report.phase in _WAITS
            if report.name == gang.name or not waits:
                continue
            which = (report.phase, report.phase_s, step)  # a time on the other's clock: only compared with itself
            if report.name not in self._waits or self._waits[report.name][0] != which:
                self._waits[report.name] = (which, now)
            elif now - self._waits[report.name][1] > WAITS_S:
                found.append(names.index(report.name))
        return found

    def _end(self, call: str, others: list[int]) -> None:
        gang = self._gang
        names = ", ".join(map(str, others))
        line = (
            f"{call} was called on rank {gang.rank} alone and waits for rank {names}, which waits in step"
            f" {gang.training.position.step}; call it on all ranks (with torchmetrics: update and compute on all, or"
            " make the metric with sync_on_compute=False)"
        )
        gang.reporter.tell(note=line, refusal=line)
        print(f"powerflow: {line}", file=sys.stderr, flush=True)
        os._exit(1)


def _collective(frame: FrameType | None) -> str | None:
    """Return the line of the script that waits in torch.distributed, with the called function.

    Returns:
        Text such as "train.py:12: all_reduce"; None if the script does not wait in torch.distributed.
    """
    inside = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if "/torch/distributed/" in name:
            inside = inside if frame.f_code.co_name == "wrapper" else frame.f_code.co_name
        elif inside and is_script(name):
            return f"{os.path.basename(name)}:{frame.f_lineno}: {inside}"
        frame = frame.f_back
    return None
