"""Find what PowerFlow saves at equal energy and at equal completion time, along the simulated prices of energy.

Each price of energy is one simulated way to run PowerFlow. From the fastest way (price 0) to the most sparing one, the
saved energy rises and the saved completion time falls. Between two neighbouring ways both are joined by a straight
line; beyond the last way nothing is claimed. A straight line claims too little rather than too much, because the true
curve between two ways bends away from it.

**Intervals.** A draw is one possible site: models, their true costs, and a part of the log. The site at hand is one
more such draw, not their mean. So the 95 % interval is one for a further draw: the standard deviation of jackknife
pseudo-values, times √(1 + 1/D) for D draws, times Student's t. Three errors that all draws share are added, as squares:
the error of the measured ÷ modelled energy, the error of the reproduced completion time, and `LINE_ERROR`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.comparison import Estimate

#: Error of a share, from the straight lines between ways. Where draws hardly differ, nothing else widens the interval.
LINE_ERROR = 0.005


@dataclass(frozen=True, slots=True, eq=False)
class SavingCurve:
    """Sums over each draw, for all ways of one scenario, in order of the price of energy.

    Attributes:
        site_j: ``[D]`` joules that jobs add to the idle draw without PowerFlow.
        ours_j: ``[D, W]`` the same with PowerFlow, for each way.
        site_s: ``[D]`` sum of completion times without PowerFlow, seconds.
        ours_s: ``[D, W]`` the same with PowerFlow.
    """

    site_j: FloatArray
    ours_j: FloatArray
    site_s: FloatArray
    ours_s: FloatArray

    @property
    def saved(self) -> tuple[FloatArray, FloatArray]:
        """Saved shares of added energy and of completion time, ``[W]`` each."""
        return 1 - self.ours_j.sum(0) / self.site_j.sum(), 1 - self.ours_s.sum(0) / self.site_s.sum()

    def without(self, draw: int) -> SavingCurve:
        """Return the curve without one draw."""
        return SavingCurve(*(np.delete(part, draw, 0) for part in (self.site_j, self.ours_j, self.site_s, self.ours_s)))


@dataclass(frozen=True, slots=True)
class AtEqual:
    """What is saved where the other quantity is as at the site.

    Attributes:
        share: Saved share with its interval; nan if no way is as good as the site.
        reached: True if the two quantities are equal between two simulated ways. False if even the last way is better
            than the site in the other quantity, so that the saving is at least this.
    """

    share: Estimate
    reached: bool


def energy_at_equal_time(curve: SavingCurve, *, relative_error: float, time_error: float) -> AtEqual:
    """Return the share of added energy that is saved at the site's mean completion time.

    Args:
        curve: Results of all ways.
        relative_error: Half-width of the 95 % interval of the measured ÷ modelled energy, as a share of it.
        time_error: Error of the reproduced mean completion time, as a share of it.
    """

    def saved(part: SavingCurve, level: float = 0.0) -> tuple[float, bool]:
        energy, time = part.saved
        return _at(time, energy, level)

    mean, reached = saved(curve)
    half = _half(curve, lambda part: saved(part)[0])
    shift = max(abs(_near(saved, curve, level) - mean) for level in (-time_error, time_error)) if time_error else 0.0
    return AtEqual(_widened(mean, half, mean * relative_error, shift), reached)


def time_at_equal_energy(curve: SavingCurve, *, time_error: float) -> AtEqual:
    """Return the share of completion time that is saved at the site's energy; arguments as `energy_at_equal_time`."""

    def saved(part: SavingCurve) -> tuple[float, bool]:
        energy, time = part.saved
        return _at(energy[::-1], time[::-1], 0.0)

    mean, reached = saved(curve)
    return AtEqual(_widened(mean, _half(curve, lambda part: saved(part)[0]), time_error), reached)


def _near(saved: Callable[[SavingCurve, float], tuple[float, bool]], curve: SavingCurve, level: float) -> float:
    value, _ = saved(curve, level)
    return value if math.isfinite(value) else saved(curve, 0.0)[0]


def _at(falling: FloatArray, wanted: FloatArray, level: float) -> tuple[float, bool]:
    """Return ``wanted`` where ``falling`` crosses a level for the last time, and whether it does.

    If it stays above the level to the end, the last value is returned, and False. If it is nowhere above it, nan.
    """
    above = np.flatnonzero(falling >= level)
    if not len(above):
        return math.nan, False
    last = int(above[-1])
    if last == len(falling) - 1:
        return float(wanted[-1]), bool(falling[-1] == level)
    part = (falling[last] - level) / (falling[last] - falling[last + 1])
    return float(wanted[last] + part * (wanted[last + 1] - wanted[last])), True


def _half(curve: SavingCurve, of: Callable[[SavingCurve], float]) -> float:
    """Return the half-width of the 95 % interval of a further draw; nan if it is not known."""
    return further(of(curve), [of(curve.without(draw)) for draw in range(len(curve.site_j))])


def further(mean: float, without: Sequence[float]) -> float:
    """Return the half-width of the 95 % interval of a further draw.

    Args:
        mean: The statistic over all draws.
        without: The same without each of the draws; at least two.
    """
    from scipy.special import stdtrit

    draws = len(without)
    pseudo = draws * mean - (draws - 1) * np.array(without)
    return float(stdtrit(draws - 1, 0.975) * pseudo.std(ddof=1) * math.sqrt(1 + 1 / draws))


def _widened(mean: float, *halves: float) -> Estimate:
    half = math.hypot(LINE_ERROR, *halves)
    return Estimate(mean, mean - half, mean + half)
