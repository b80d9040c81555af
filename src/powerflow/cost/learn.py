"""Learn the costs of job classes while jobs run: start from a prior and refine it with each new observation.

A refit takes milliseconds, so it happens only when a configuration is measured for the first time. A repeated
measurement only changes that configuration's mean in the table, which needs no fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from powerflow.cost.batch_range import BatchRange
from powerflow.cost.clock_choice import ClockCosts, clocks_to_try, slowest_times
from powerflow.cost.fit import fit
from powerflow.cost.goodput import tabulate_best
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable

#: Assumed noise before a configuration is measured again: standard deviation of the logarithm of one measured step
#: time, and its weight as a number of repeated measurements. In the clock profiles of A100, A40 and V100, step times of
#: neighbouring clocks scatter by 0.05 to 1.5 % around smooth curves.
NOISE, NOISE_WEIGHT = 0.01, 2.0

Configuration = tuple[int, int, int, int, float | None]  # GPUs, nodes, local batch, accumulation, clock


@dataclass(slots=True)
class _Seen:
    """Repeated measurements of one configuration: their number, and sums of logarithms for geometric means.

    ``squares`` is the sum of squared deviations of log time from its mean (Welford, Technometrics 1962).
    """

    last: Observation
    times: int = 0
    log_time: float = 0.0
    squares: float = 0.0
    powers: int = 0
    log_power: float = 0.0

    def add(self, observation: Observation) -> None:
        self.last = observation
        log_s = math.log(observation.step_time_s)
        if self.times:
            self.squares += (log_s - self.log_time / self.times) ** 2 * self.times / (self.times + 1)
        self.times += 1
        self.log_time += log_s
        if observation.power_w is not None:
            self.powers += 1
            self.log_power += math.log(observation.power_w)

    def mean(self) -> Observation:
        time_s = math.exp(self.log_time / self.times)
        power_w = math.exp(self.log_power / self.powers) if self.powers else None
        return replace(self.last, step_time_s=time_s, power_w=power_w, power_limit_w=None)


@dataclass(slots=True)
class _Class:
    """Prior, batches and measurements of one job class on one GPU type."""

    prior: JobModel
    global_batch: int
    allowed: BatchRange | None
    seen: dict[Configuration, _Seen] = field(default_factory=dict)
    model: JobModel | None = None

    def noise(self) -> float:
        """Return the standard deviation of the logarithm of one measured step time, pulled towards `NOISE`."""
        squares = sum(seen.squares for seen in self.seen.values())
        repeats = sum(seen.times - 1 for seen in self.seen.values())
        return math.sqrt((NOISE_WEIGHT * NOISE**2 + squares) / (NOISE_WEIGHT + repeats))


class Learner:
    """Learns the costs of job classes, each starting from a prior.

    Call `expect` first for each class and GPU type. Otherwise all other methods raise `KeyError`.

    Args:
        axes: For each GPU type, the GPU counts and clocks of its tables.
    """

    def __init__(self, axes: Mapping[str, Axes]) -> None:
        self._axes = axes
        self._classes: dict[tuple[str, str], _Class] = {}

    def expect(
        self,
        cost_class: str,
        gpu_type: str,
        prior: JobModel,
        global_batch: int,
        allowed: BatchRange | None = None,
    ) -> None:
        """Add a job class on a GPU type, with its prior, its own global batch, and other batches that it may use."""
        self._classes[cost_class, gpu_type] = _Class(prior, global_batch, allowed)

    def observe(self, cost_class: str, gpu_type: str, observations: Sequence[Observation]) -> bool:
        """Add measurements of a class; return True if the cost table should be computed again.

        The result is True for the 1st, 2nd, 4th, 8th … measurement of a configuration.
        """
        known = self._classes[cost_class, gpu_type]
        configurations, news = len(known.seen), False
        for o in observations:
            key = (o.gpus, o.nodes, o.local_batch, o.accumulation, o.clock_mhz)
            seen = known.seen.setdefault(key, _Seen(o))
            seen.add(o)
            news |= seen.times & (seen.times - 1) == 0  # the 1st, 2nd, 4th, 8th …
        if len(known.seen) > configurations:
            means = [seen.mean() for seen in known.seen.values()]
            known.model = fit(means, prior=known.prior, start=known.model, folds=0).model
        return news

    def measured_time_s(self, cost_class: str, gpu_type: str, gpus: int, clock_mhz: float) -> float | None:
        """Return the geometric mean of the measured step times at a GPU count and clock; None if there is none."""
        known, top = self._classes[cost_class, gpu_type], float(self._axes[gpu_type].clocks_mhz[-1])
        for (n, _, _, _, clock), seen in known.seen.items():
            if n == gpus and (top if clock is None else clock) == clock_mhz:
                return math.exp(seen.log_time / seen.times)
        return None

    def rebatch(self, cost_class: str, gpu_type: str, global_batch: int, local_batch_max: int) -> None:
        """Correct the global batch and the largest local batch of a job class."""
        known = self._classes[cost_class, gpu_type]
        known.global_batch = global_batch
        known.prior = replace(known.prior, local_batch_max=local_batch_max)
        if known.model is not None:
            known.model = replace(known.model, local_batch_max=local_batch_max)

    def model(self, cost_class: str, gpu_type: str) -> JobModel:
        """Return the current cost model of a job class: the fitted one, or the prior if nothing was measured yet."""
        known = self._classes[cost_class, gpu_type]
        return known.model or known.prior

    def table(self, cost_class: str, gpu_type: str) -> CostTable:
        """Return the current cost table of a job class on a GPU type."""
        known, axes = self._classes[cost_class, gpu_type], self._axes[gpu_type]
        measured = [seen.mean() for seen in known.seen.values()]
        table = tabulate_best(known.model or known.prior, axes, known.global_batch, known.allowed, measured)
        rows = range(len(axes.gpu_counts))
        slowest_s = [slowest_times(_clock_costs(known, axes, table, row, packed=True)) for row in rows]
        margin = np.divide(slowest_s, table.step_time_s, out=np.ones_like(table.power_w), where=np.isfinite(slowest_s))
        return replace(table, margin=margin)

    def clocks_to_try(
        self,
        cost_class: str,
        gpu_type: str,
        gpus: int,
        trial_steps: float,
        *,
        packed: bool,
        most_slowdown: float = math.inf,
        remaining: float = math.inf,
    ) -> Sequence[float]:
        """Return the clocks (MHz) at which a job should be measured next, in this order; empty for none.

        A clock that should be measured several times is returned as often.

        Args:
            cost_class, gpu_type: Class of the job, and type of its GPUs.
            gpus: GPU count of the job. If the tables do not have it, no clock is tried.
            trial_steps: Iterations of one trial.
            packed: True if the job is on as few nodes as possible.
            most_slowdown: Largest share by which the job's owner allows a step to become slower; inf for no limit.
            remaining: Iterations on which energy is to be saved (see `powerflow.cost.clock_choice.clocks_to_try`).
        """
        known, axes = self._classes[cost_class, gpu_type], self._axes[gpu_type]
        row = int(np.searchsorted(axes.gpu_counts, gpus))
        if row >= len(axes.gpu_counts) or axes.gpu_counts[row] != gpus:
            return ()
        costs = _clock_costs(known, axes, self.table(cost_class, gpu_type), row, packed=packed)
        return [float(axes.clocks_mhz[k]) for k in clocks_to_try(costs, most_slowdown, remaining, trial_steps)]


def _clock_costs(known: _Class, axes: Axes, table: CostTable, row: int, *, packed: bool) -> ClockCosts:
    """Return the costs of a class on the GPU count of a row, and how often it was measured there at each clock.

    Measurements at another batch than the table's do not count.
    """
    gpus, top = int(axes.gpu_counts[row]), float(axes.clocks_mhz[-1])
    here = (gpus, packed, table.local_batch[row], table.accumulation[row])
    fewest = -(-gpus // axes.gpus_per_node)
    measured = np.zeros(len(axes.clocks_mhz), np.int64)
    for (n, nodes, batch, passes, clock), seen in known.seen.items():
        if (n, nodes <= fewest, batch, passes) == here:
            measured[axes.clocks_mhz == (top if clock is None else clock)] += seen.times
    times_s = table.step_time_s if packed else table.spread_step_time_s
    return ClockCosts(axes.clocks_mhz, times_s[row], table.power_w[row], measured, known.noise())
