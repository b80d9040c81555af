"""The power caps of a simulation, and a record of the power under each of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.caps.compliance import HEADER, Compliance, comply, line


class CapLog:
    """Announces power caps, and records the true power of their scopes.

    Args:
        caps: Power caps, each with the time at which the scheduler learns of it.
    """

    def __init__(self, caps: Sequence[tuple[float, PowerCap]]) -> None:
        self._to_tell = sorted(caps, key=lambda entry: entry[0])
        self._caps = [cap for _, cap in self._to_tell]
        self._rows: dict[str, array[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._caps)

    def told_s(self) -> float:
        """Return when the scheduler learns of the next cap."""
        return self._to_tell[0][0] if self._to_tell else math.inf

    def told(self, now_s: float) -> list[PowerCap]:
        """Return the caps that the scheduler learns of now."""
        heard = [cap for told_s, cap in self._to_tell if told_s <= now_s]
        self._to_tell = self._to_tell[len(heard) :]
        return heard

    def note(self, scope: str, now_s: float, watts: float, allowed_w: float) -> None:
        """Record the power of a scope, and its limit, from now on."""
        self._rows.setdefault(scope, array("d")).extend((now_s, watts, allowed_w))

    def rows(self, scope: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return, for one scope, times (s), watts from each time on, and watts allowed then."""
        rows = np.array(self._rows.get(scope, array("d"))).reshape(-1, 3)
        last = np.append(rows[1:, 0] != rows[:-1, 0], True) if len(rows) else np.empty(0, bool)
        time_s, watts, allowed_w = rows[last].T.copy()
        return time_s, watts, allowed_w

    def compliance(self) -> list[Compliance]:
        """Return how well each cap was kept."""
        return [comply(cap, *self.rows(cap.scope.name)[:2]) for cap in self._caps]

    def to_csv(self, scope: str) -> str:
        """Return CSV ``time_s,watts,allowed_w`` of one scope, a line for each change; empty without a limit."""
        rows = zip(*self.rows(scope), strict=True)
        return HEADER + "".join(line(*row) for row in rows)
