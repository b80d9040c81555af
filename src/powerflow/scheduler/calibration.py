"""Give intervals for predictions, learnt from the errors of past ones: split conformal prediction.

Predicted values (seconds, joules) are positive and their errors relative, so residuals are log(actual / predicted). If
future residuals have the same distribution as past ones, whatever it is, an interval between order statistics of the
past residuals contains the outcome with the stated probability, within 1/(n + 1) (Vovk, Gammerman, Shafer 2005; Lei et
al., JASA 2018, theorem 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

#: Number of residuals kept: models improve, so that old errors say little about them.
KEPT = 400


class Calibration:
    """Residuals of one kind of prediction.

    Args:
        residuals: Earlier values of log(actual / predicted), oldest first.

    Attributes:
        residuals: The latest `KEPT` residuals, oldest first.
    """

    def __init__(self, residuals: Iterable[float] = ()) -> None:
        self.residuals: Sequence[float] = tuple(residuals)[-KEPT:]  # updates replace it: other threads may read it

    def add(self, predicted: float, actual: float) -> None:
        """Add the outcome of a prediction; both must be positive and finite, or they are ignored."""
        if 0 < predicted < math.inf and 0 < actual < math.inf:
            self.residuals = (*self.residuals, math.log(actual / predicted))[-KEPT:]

    def interval(self, predicted: float, level: float = 0.8) -> tuple[float, float] | None:
        """Return the interval that contains the outcome with probability ``level``; None with too few residuals.

        Args:
            predicted: The prediction, > 0.
            level: Between 0 and 1. The outcome is equally likely to lie below or above the interval.
        """
        n, tail = len(self.residuals), (1.0 - level) / 2.0
        below = math.floor((n + 1) * tail + 1e-9)  # of n + 1 equally likely positions, those left out at each end
        if below < 1:
            return None
        ordered = sorted(self.residuals)
        return predicted * math.exp(ordered[below - 1]), predicted * math.exp(ordered[n - below])
