"""Tell the scheduler of power caps during a simulation, and record the power under each cap."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.caps.compliance import HEADER, Compliance, comply, line


class CapLog:
    """Tells the scheduler of power caps, and records the true power of the capped parts of the cluster.

    A scope is the part of the cluster to which a cap applies.

    Args:
        caps: Pairs of a time in seconds and a power cap. The scheduler learns of the cap at that time.
    """

    def __init__(self, caps: Sequence[tuple[float, PowerCap]]) -> None:
        self._to_tell = sorted(caps, key=lambda entry: entry[0])
        self._caps = [cap for _, cap in self._to_tell]
        self._rows: dict[str, array[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._caps)

    def told_s(self) -> float:
        """Return the time in seconds at which the scheduler learns of the next cap; ``inf`` if no cap is left."""
        return self._to_tell[0][0] if self._to_tell else math.inf

    def told(self, now_s: float) -> list[PowerCap]:
        """Return the caps that the scheduler learns of until ``now_s``. Each cap is returned by one call only."""
        heard = [cap for told_s, cap in self._to_tell if told_s <= now_s]
        self._to_tell = self._to_tell[len(heard) :]
        return heard

    def note(self, scope: str, now_s: float, watts: float, allowed_w: float) -> None:
        """Record the power and the limit of a scope (a capped part of the cluster), valid from ``now_s`` on."""
        self._rows.setdefault(scope, array("d")).extend((now_s, watts, allowed_w))

    def rows(self, scope: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the recorded times (s), watts, and highest allowed watts of one scope (a capped part of the cluster).

        The watts and the allowed watts of each entry hold from its time until the time of the next entry.
        """
        rows = np.array(self._rows.get(scope, array("d"))).reshape(-1, 3)
        last = np.append(rows[1:, 0] != rows[:-1, 0], True) if len(rows) else np.empty(0, bool)
        time_s, watts, allowed_w = rows[last].T.copy()
        return time_s, watts, allowed_w

    def compliance(self) -> list[Compliance]:
        """Return for each power cap how well the simulated cluster kept it."""
        return [comply(cap, *self.rows(cap.scope.name)[:2]) for cap in self._caps]

    def to_csv(self, scope: str) -> str:
        """Return the record of one scope (a capped part of the cluster) as CSV with columns ``time_s,watts,allowed_w``.

        Each change of watts or limit gives one line. In a line without a limit, ``allowed_w`` is empty.
        """
        rows = zip(*self.rows(scope), strict=True)
        return HEADER + "".join(line(*row) for row in rows)
