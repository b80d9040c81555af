"""Bound how slow unmeasured clocks can be, and choose the clocks at which a job should be measured next.

T(f) is the time of a step at clock f, on given GPUs. Two facts about it hold whatever the parameters of a job are:

1. No part of a step scales more than the clock does: T(f) ≤ T(f′)·f′/f for f < f′.
2. T is convex in 1/f. Parts that run one after the other add up, and of parts that overlap the longest counts (roofline
   model, Williams et al., CACM 2009). So between two measured clocks T lies below the straight line in 1/f.

Energy has no such bounds. The distance of log(T·P) from the fitted formula (P: watts) is modelled as a Brownian bridge:
it is 0 at measured clocks, and its variance grows with the distance to them, measured in x = f/f_max:

    variance = σ² · (x − x_low)·(x_high − x) / (x_high − x_low)       between two measured clocks
    variance = σ² · |x − x_measured|                                  beyond them
    σ        = ENERGY_SPREAD · (largest − smallest believed log energy over all clocks)

A clock is worth a trial if the energy that it should save on all remaining steps exceeds the energy of the trial, whose
work counts as lost. The saving is the expected improvement over the best measured clock (Jones, Schonlau, Welch,
J. Global Optimization 1998).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import BoolArray, FloatArray

#: Spread of log energy around the formula (see this module): with three clocks measured, the root mean square is 0.36
#: on V100 (33 workloads), 0.34 on A100 and 0.56 on A40 (6 each; `benchmarks.clock_choice` has the profiles).
ENERGY_SPREAD = 0.4
#: Least expected improvement of energy for a trial, as a share: smaller gains are below the noise of a measurement.
LEAST_GAIN = 0.003
#: Most clocks that a class tries on one GPU count, the low, the middle and the high one included.
MOST_CLOCKS = 5
#: Room for rounding in comparisons of times.
_ROUNDING = 1.0 + 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ClockCosts:
    """Believed costs of one class on one GPU count, by clock.

    Attributes:
        clocks_mhz: ``[F]`` clocks in MHz, ascending; the last one is the maximum.
        step_time_s: ``[F]`` seconds per iteration.
        power_w: ``[F]`` watts of all the job's GPUs together.
        seen: ``[F]`` true where the class was measured.
    """

    clocks_mhz: FloatArray
    step_time_s: FloatArray
    power_w: FloatArray
    seen: BoolArray


def slowest_times(costs: ClockCosts) -> FloatArray:
    """Return ``[F]`` the most seconds that a step can take at each clock, if its time at the maximum clock is right.

    Limits are relative to the maximum clock. As long as it was not measured, its believed time counts as measured,
    and measurements at lower clocks do not count: they do not show how much faster the maximum clock is.
    """
    seen = costs.seen if costs.seen[-1] else np.arange(len(costs.seen)) == len(costs.seen) - 1
    clocks, times_s = costs.clocks_mhz, costs.step_time_s
    known, known_s = clocks[seen], times_s[seen]
    between_s = np.interp(-1.0 / clocks, -1.0 / known, known_s)  # below the lowest: its time; above the highest too
    most_s = np.where(clocks < known[0], known_s[0] * known[0] / clocks, between_s)
    return np.where(seen, times_s, np.maximum(most_s, times_s))


def clocks_to_try(costs: ClockCosts, most_slowdown: float, remaining: float, trial_steps: float) -> list[int]:
    """Return the positions of the clocks at which a job should be measured next, in this order; [] for none.

    1. The highest, a middle and the lowest clock come first: the fit needs them (`docs/models.md`).
    2. Then one clock at a time, at most `MOST_CLOCKS` in all, as long as it pays.

    If the owner limits the slowdown, clocks that could break the limit are not tried in step 1. In step 2 such a clock
    is tried if the believed step time keeps the limit, or the middle between the shortest and the longest possible one.
    The job then first runs as many steps at the maximum clock. Both together keep the limit in any case.

    Args:
        costs: Believed costs at each clock.
        most_slowdown: Largest share by which a step may become slower than at the maximum clock; inf for no limit.
        remaining: Iterations on which a lower clock can save energy: those that the job still has (inf if unknown), or
            0 if it runs at the maximum clock although its owner sets no limit.
        trial_steps: Iterations of one trial.
    """
    top = len(costs.clocks_mhz) - 1
    if not math.isfinite(costs.step_time_s[top]):
        return []
    most_s = (1.0 + most_slowdown) * costs.step_time_s[top] * _ROUNDING
    slowest_s = slowest_times(costs)
    safe = slowest_s <= most_s
    safe[top] = True
    first = [k for k in three_clocks(top + 1)[::-1] if safe[k] and not costs.seen[k]]
    if first:
        return first
    if np.count_nonzero(costs.seen) >= MOST_CLOCKS:
        return []
    log_energy = np.log(costs.step_time_s * costs.power_w)
    best = int(np.where(costs.seen & safe, log_energy, np.inf).argmin())
    # as many steps at the maximum clock before the trial save as much time as the trial may lose
    with_top_s = most_s + most_slowdown * costs.step_time_s[top]
    likely_s = np.minimum(costs.step_time_s, (_fastest_times(costs) + slowest_s) / 2.0)
    allowed = ~costs.seen & (likely_s <= most_s) & (slowest_s <= with_top_s)
    gain = np.where(allowed, _expected_gain(log_energy[best] - log_energy, _spread(costs)), 0.0)
    pick = int(gain.argmax())
    trials = [pick] if safe[pick] else [top, pick]
    pays = gain[pick] >= LEAST_GAIN and gain[pick] * remaining > trial_steps * len(trials)
    return trials if pays else []


def _fastest_times(costs: ClockCosts) -> FloatArray:
    """Return ``[F]`` the least seconds that a step can take at each clock: no less than at a higher measured clock."""
    measured_s = np.where(costs.seen, costs.step_time_s, 0.0)
    return np.maximum.accumulate(measured_s[::-1])[::-1]


def three_clocks(clocks: int) -> list[int]:
    """Return the positions of the lowest, a middle and the highest of ``clocks`` clocks.

    Measurements at these three clocks are enough to fit the time and power curves (`docs/models.md`).
    """
    return sorted({0, clocks // 2, clocks - 1})


def _spread(costs: ClockCosts) -> FloatArray:
    """Return ``[F]`` the standard deviation of log energy around the formula; 0 where the class was measured."""
    x = costs.clocks_mhz / costs.clocks_mhz[-1]
    if not costs.seen.any():
        return np.zeros_like(x)
    known = x[costs.seen]
    above = np.searchsorted(known, x)
    low, high = known[np.maximum(above - 1, 0)], known[np.minimum(above, len(known) - 1)]
    inside = (x - low) * (high - x) / np.where(high > low, high - low, 1.0)
    outside = np.where(x < known[0], known[0] - x, x - known[-1])
    variance = np.where((x > known[0]) & (x < known[-1]), inside, outside)
    sigma = ENERGY_SPREAD * float(np.ptp(np.log(costs.step_time_s * costs.power_w)))
    return sigma * np.sqrt(np.where(costs.seen, 0.0, np.maximum(variance, 0.0)))


def _expected_gain(mean: FloatArray, spread: FloatArray) -> FloatArray:
    """Return E[max(0, X)] of normal X with these means and standard deviations."""
    z = mean / np.where(spread > 0.0, spread, 1.0)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z])
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return np.where(spread > 0.0, mean * below + spread * density, np.maximum(mean, 0.0))
