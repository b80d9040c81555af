"""The power caps of a simulation: when the scheduler hears of each, and what was drawn under it, second by second."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.caps.compliance import HEADER, Compliance, comply, line


class CapLog:
    """Power caps to come, and the record of how they were kept.

    The power is the truth about jobs; the scheduler went by what it believed.

    Args:
        caps: Each with the moment at which the scheduler hears of it.
    """

    def __init__(self, caps: Sequence[tuple[float, PowerCap]]) -> None:
        self._to_tell = sorted(caps, key=lambda entry: entry[0])
        self._caps = [cap for _, cap in self._to_tell]
        self._rows: dict[str, array[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._caps)

    def told_s(self) -> float:
        """When the scheduler hears of the next cap."""
        return self._to_tell[0][0] if self._to_tell else math.inf

    def told(self, now_s: float) -> list[PowerCap]:
        """The caps that the scheduler hears of now."""
        heard = [cap for told_s, cap in self._to_tell if told_s <= now_s]
        self._to_tell = self._to_tell[len(heard) :]
        return heard

    def note(self, scope: str, now_s: float, watts: float, allowed_w: float) -> None:
        """A scope draws so much from now on."""
        self._rows.setdefault(scope, array("d")).extend((now_s, watts, allowed_w))

    def rows(self, scope: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """When (s), watts from then on, and watts allowed then, for one scope; one row for each moment."""
        rows = np.array(self._rows.get(scope, array("d"))).reshape(-1, 3)
        last = np.append(rows[1:, 0] != rows[:-1, 0], True) if len(rows) else np.empty(0, bool)
        time_s, watts, allowed_w = rows[last].T.copy()
        return time_s, watts, allowed_w

    def compliance(self) -> list[Compliance]:
        """How each cap was kept."""
        return [comply(cap, *self.rows(cap.scope.name)[:2]) for cap in self._caps]

    def to_csv(self, scope: str) -> str:
        """``time_s,watts,allowed_w`` for one scope, a line for each change; no number where all is allowed."""
        rows = zip(*self.rows(scope), strict=True)
        return HEADER + "".join(line(*row) for row in rows)
