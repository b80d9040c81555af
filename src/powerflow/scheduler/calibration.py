"""Compute intervals around predictions from the errors of earlier predictions (split conformal prediction).

Predicted values (seconds, joules) are positive, and their errors are relative. So the error of a prediction, its
*residual*, is log(actual / predicted). The n past residuals are sorted, and an interval goes from one of them to
another. If future residuals have the same distribution as past residuals, the interval contains the outcome with the
stated probability, up to an error of 1/(n + 1). The distribution need not be known (Vovk, Gammerman, Shafer 2005; Lei
et al., JASA 2018, theorem 2.2).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

#: Number of residuals kept. Models improve, so old errors say little about the present models.
KEPT = 400


class Calibration:
    """Keep the errors of one kind of prediction, and return intervals for new predictions of this kind.

    Args:
        residuals: Errors of earlier predictions, log(actual / predicted), oldest first.

    Attributes:
        residuals: The errors of the latest 400 (`KEPT`) predictions, log(actual / predicted), oldest first.
    """

    def __init__(self, residuals: Iterable[float] = ()) -> None:
        self.residuals: Sequence[float] = tuple(residuals)[-KEPT:]  # updates replace it: other threads may read it

    def add(self, predicted: float, actual: float) -> None:
        """Record a predicted and an actual value. Pairs with a value that is not positive and finite are ignored."""
        if 0 < predicted < math.inf and 0 < actual < math.inf:
            self.residuals = (*self.residuals, math.log(actual / predicted))[-KEPT:]

    def expected(self, predicted: float) -> float:
        """Return a prediction corrected by the median error of earlier predictions: it is always inside `interval`.

        If too few outcomes are known for an interval, the prediction is returned as it is.
        """
        if self.interval(predicted) is None:
            return predicted
        return predicted * math.exp(statistics.median(self.residuals))

    def interval(self, predicted: float, level: float = 0.8) -> tuple[float, float] | None:
        """Return the interval around a prediction that contains the outcome with a given probability.

        Args:
            predicted: The prediction, > 0.
            level: The probability, between 0 and 1. The outcome is equally likely to lie below or above the interval.

        Returns:
            Lower and upper end of the interval, in the unit of ``predicted``. None if too few outcomes of earlier
            predictions are known for this probability.
        """
        n, tail = len(self.residuals), (1.0 - level) / 2.0
        below = math.floor((n + 1) * tail + 1e-9)  # how many of n + 1 equally likely positions are left out at each end
        if below < 1:
            return None
        ordered = sorted(self.residuals)
        return predicted * math.exp(ordered[below - 1]), predicted * math.exp(ordered[n - below])
