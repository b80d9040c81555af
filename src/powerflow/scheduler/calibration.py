"""How far predictions may be trusted, learnt from those that came true or did not: split conformal intervals.

What is predicted here is positive (seconds, joules), and errors are shares, so residuals are logarithms of actual over
predicted. If those of jobs to come are drawn as those seen were, in any distribution, an interval between their order
statistics holds the outcome with the stated probability, give or take 1/(n + 1) (Vovk, Gammerman, Shafer 2005; Lei et
al., JASA 2018, theorem 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

#: So many outcomes are remembered: models get better, and what was learnt long ago says little of them.
KEPT = 400


class Calibration:
    """Outcomes of one kind of prediction.

    Args:
        residuals: log(actual / predicted) seen before, oldest first.

    Attributes:
        residuals: The same with what was added.
    """

    def __init__(self, residuals: Iterable[float] = ()) -> None:
        self.residuals: Sequence[float] = tuple(residuals)[-KEPT:]  # replaced as a whole: other threads may read it

    def add(self, predicted: float, actual: float) -> None:
        """A prediction has an outcome. Both positive and finite, or it says nothing."""
        if 0 < predicted < math.inf and 0 < actual < math.inf:
            self.residuals = (*self.residuals, math.log(actual / predicted))[-KEPT:]

    def interval(self, predicted: float, level: float = 0.8) -> tuple[float, float] | None:
        """Where the outcome will lie with a probability of ``level``; None before there are enough outcomes to say.

        Args:
            predicted: > 0.
            level: Between 0 and 1; half of the rest lies below, half above.
        """
        n, tail = len(self.residuals), (1.0 - level) / 2.0
        below = math.floor((n + 1) * tail + 1e-9)  # of n + 1 equally likely places, so many are left out at each end
        if below < 1:
            return None
        ordered = sorted(self.residuals)
        return predicted * math.exp(ordered[below - 1]), predicted * math.exp(ordered[n - below])
