"""Count how long the turns of the controller's loop take."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable

from powerflow.api.loop_figures import DurationCounts

#: Upper bounds of the counted durations, in seconds: from an idle turn to one that endangers the lease on the store.
BOUNDS_S = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, math.inf)


class TurnTimes:
    """Count the durations of turns.

    Attributes:
        counted: The counts so far. It is replaced as a whole after each turn, so any thread may read it.
    """

    def __init__(self) -> None:
        self.counted = DurationCounts(BOUNDS_S, (0,) * len(BOUNDS_S), 0.0)

    def timed(self, turn: Callable[[], float]) -> float:
        """Run one turn, count how long it took, and return what it returns."""
        begun_s = time.perf_counter()
        answer = turn()
        self.note(time.perf_counter() - begun_s)
        return answer

    def note(self, took_s: float) -> None:
        """Count one turn that took ``took_s`` seconds."""
        counts = [*self.counted.counts]
        counts[bisect_left(BOUNDS_S, took_s)] += 1
        self.counted = DurationCounts(BOUNDS_S, tuple(counts), self.counted.sum_s + took_s)
