"""Bound how slow unmeasured clocks can be, and choose the clocks at which a job should be measured next.

T(f) is the time of a step at clock f, on given GPUs. Two facts about it hold whatever the parameters of a job are:

1. No part of a step scales more than the clock does: T(f) ≤ T(f′)·f′/f for f < f′.
2. T is convex in 1/f. Parts that run one after the other add up, and of parts that overlap the longest counts (roofline
   model, Williams et al., CACM 2009). So between two measured clocks T lies below the straight line in 1/f.

Measured times have errors. σ is the standard deviation of the logarithm of one measured time, estimated from repeated
measurements (`powerflow.cost.learn`). After n measurements at clock f and m at the maximum clock, the logarithm of
T(f)/T(f_max) has the standard deviation σ·√(1/n + 1/m). A clock keeps a limit only if its time keeps it after this
reserve was added:

    reserve = RESERVE · σ · √(1/n + 1/m)

So a job with a limit measures the clocks that may keep the limit again, until σ/√n is at most `PRECISION`.

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
from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray

#: Spread of log energy around the formula (see this module): with three clocks measured, the root mean square is 0.36
#: on V100 (33 workloads), 0.34 on A100 and 0.56 on A40 (6 each; `benchmarks.clock_choice` has the profiles).
ENERGY_SPREAD = 0.4
#: Least expected improvement of energy for a trial, as a share: smaller gains are below the noise of a measurement.
LEAST_GAIN = 0.003
#: Most clocks that a class tries on one GPU count, the low, the middle and the high one included. With a limit on the
#: slowdown it is one more, because the best clock then also depends on the reserve.
MOST_CLOCKS = 5
#: Standard deviations in the reserve. A choice among many clocks that are not close to the limit breaks it more rarely
#: than 1.5 suggests (7 %): `benchmarks.clock_choice` has the share.
RESERVE = 1.5
#: Wanted standard deviation of the logarithm of a step time, for jobs with a limit on the slowdown.
PRECISION = 0.005
#: Fewest measurements at one clock, from which the noise is estimated, and the most.
LEAST_REPEATS, MOST_REPEATS = 4, 128
#: Largest share of the remaining steps for which clocks are measured again (more only for `LEAST_REPEATS`).
REPEAT_SHARE = 0.05
#: Room for rounding in comparisons of times.
_ROUNDING = 1.0 + 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ClockCosts:
    """Believed costs of one class on one GPU count, by clock.

    Attributes:
        clocks_mhz: ``[F]`` clocks in MHz, ascending; the last one is the maximum.
        step_time_s: ``[F]`` seconds per iteration.
        power_w: ``[F]`` watts of all the job's GPUs together.
        measured: ``[F]`` how often the class was measured at each clock.
        noise: Standard deviation of the logarithm of one measured step time (σ in this module).
    """

    clocks_mhz: FloatArray
    step_time_s: FloatArray
    power_w: FloatArray
    measured: IntArray
    noise: float

    @property
    def seen(self) -> BoolArray:
        """Return ``[F]`` true where the class was measured."""
        return self.measured > 0


def slowest_times(costs: ClockCosts) -> FloatArray:
    """Return ``[F]`` the most seconds that a step can take at each clock, if its time at the maximum clock is right.

    The times at measured clocks contain the reserve for noise (see this module). Limits are relative to the maximum
    clock. As long as it was not measured, its believed time counts as measured, and measurements at lower clocks do not
    count: they do not show how much faster the maximum clock is.
    """
    seen = costs.seen if costs.seen[-1] else np.arange(len(costs.seen)) == len(costs.seen) - 1
    clocks, times_s = costs.clocks_mhz, costs.step_time_s
    known, known_s = clocks[seen], (times_s * np.exp(_reserve(costs)))[seen]
    between_s = np.interp(-1.0 / clocks, -1.0 / known, known_s)  # below the lowest: its time; above the highest too
    most_s = np.where(clocks < known[0], known_s[0] * known[0] / clocks, between_s)
    most_s = np.minimum(most_s, times_s[-1] * clocks[-1] / clocks)  # the first fact needs no measurement at f
    slowest_s: FloatArray = np.maximum(most_s, times_s)
    return slowest_s


def _reserve(costs: ClockCosts) -> FloatArray:
    """Return ``[F]`` the reserve for noise (see this module); 0 at the maximum clock and at unmeasured clocks."""
    if not costs.seen[-1]:
        return np.zeros(len(costs.measured))
    of_mean = 1.0 / np.maximum(costs.measured, 1)
    spread = costs.noise * np.sqrt(of_mean + of_mean[-1])
    spread[-1] = 0.0
    return RESERVE * np.where(costs.seen, spread, 0.0)


def clocks_to_try(costs: ClockCosts, most_slowdown: float, remaining: float, trial_steps: float) -> list[int]:
    """Return the positions of the clocks at which a job should be measured next, in this order; [] for none.

    1. The highest, a middle and the lowest clock come first: the fit needs them (`docs/models.md`).
    2. If the owner limits the slowdown, clocks are measured again, as often as the noise demands. Slower ones too: they
       bound the times at clocks between. A clock is returned once for each measurement.
    3. Then one clock at a time, at most `MOST_CLOCKS` in all, as long as it pays.

    If the owner limits the slowdown, clocks that could break the limit are not tried in step 1. In step 3 such a clock
    is tried if the believed step time keeps the limit, or the middle between the shortest and the longest possible one.
    The job then first runs as many steps at the maximum clock, as it does in step 2 if the measured time breaks the
    limit. Both together keep the limit, except for the noise: trials are short, and get no reserve.

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
    slowest_s = slowest_times(replace(costs, noise=0.0))
    safe = slowest_s <= most_s
    safe[top] = True
    first = [k for k in three_clocks(top + 1)[::-1] if safe[k] and not costs.seen[k]]
    if first:
        return first
    # as many steps at the maximum clock before the trial save as much time as the trial may lose
    with_top_s = most_s + most_slowdown * costs.step_time_s[top]
    limited, keeps_s = math.isfinite(most_slowdown), most_s
    if limited:
        wanted = repeats_wanted(costs.noise, remaining / trial_steps)
        again = _repeats(costs, wanted, most_s, with_top_s)
        if again:
            return again
        safe = slowest_times(costs) <= most_s
        safe[top] = True
        keeps_s = most_s * math.exp(
            -RESERVE * costs.noise * math.sqrt(1.0 / wanted + 1.0 / max(wanted, costs.measured[top]))
        )
    if np.count_nonzero(costs.seen) >= MOST_CLOCKS + limited:
        return []
    log_energy = np.log(costs.step_time_s * costs.power_w)
    best = int(np.where(costs.seen & safe, log_energy, np.inf).argmin())
    likely_s = np.minimum(costs.step_time_s, (_fastest_times(costs) + slowest_s) / 2.0)
    allowed = ~costs.seen & (likely_s <= keeps_s) & (slowest_s <= with_top_s)
    gain = np.where(allowed, _expected_gain(log_energy[best] - log_energy, _spread(costs)), 0.0)
    pick = int(gain.argmax())
    trials = [pick] if slowest_s[pick] <= most_s else [top, pick]
    pays = gain[pick] >= LEAST_GAIN and gain[pick] * remaining > trial_steps * len(trials)
    return trials if pays else []


def repeats_wanted(noise: float, trials_left: float) -> int:
    """Return how often each clock should be measured for a job with a limit on its slowdown.

    Args:
        noise: Standard deviation of the logarithm of one measured step time.
        trials_left: Remaining steps of the job, in trials.
    """
    precise = min((noise / PRECISION) ** 2, REPEAT_SHARE * trials_left / MOST_CLOCKS, MOST_REPEATS)
    return max(math.ceil(precise), LEAST_REPEATS)


def _repeats(costs: ClockCosts, wanted: int, most_s: float, with_top_s: float) -> list[int]:
    """Return the clocks to measure again: first the maximum clock, on which all limits depend, then the thriftiest."""
    top = len(costs.measured) - 1
    few = costs.seen & (costs.measured < wanted) & (costs.step_time_s <= with_top_s)
    if not few.any():
        return []
    pick = top if few[top] else int(np.where(few, costs.step_time_s * costs.power_w, np.inf).argmin())
    known = int(costs.measured[pick])
    # at most as many as there are: the noise is estimated anew in between
    return ([pick] if costs.step_time_s[pick] <= most_s else [top, pick]) * min(wanted - known, known)


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
