"""Learn the costs of job classes while jobs run: start from a prior and refine it with each new observation.

A refit takes milliseconds, so it happens only when a configuration is measured for the first time. A repeated
measurement only changes that configuration's mean in the table, which needs no fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from powerflow.cost.batch_range import BatchRange
from powerflow.cost.clock_choice import ClockCosts, clocks_to_try, slowest_times
from powerflow.cost.fit import fit
from powerflow.cost.goodput import tabulate_best
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable

Configuration = tuple[int, int, int, int, float | None]  # GPUs, nodes, local batch, accumulation, clock


@dataclass(slots=True)
class _Seen:
    """Repeated measurements of one configuration: their number, and sums of logarithms for geometric means."""

    last: Observation
    times: int = 0
    log_time: float = 0.0
    powers: int = 0
    log_power: float = 0.0

    def add(self, observation: Observation) -> None:
        self.last = observation
        self.times += 1
        self.log_time += math.log(observation.step_time_s)
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
        slowest_s = []
        for row, batch in enumerate(zip(table.local_batch, table.accumulation, strict=True)):
            same = [seen for seen in known.seen if seen[2:4] == batch]  # at another batch it was not measured
            slowest_s.append(slowest_times(_clock_costs(same, axes, table, row, packed=True)))
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
        costs = _clock_costs(known.seen, axes, self.table(cost_class, gpu_type), row, packed=packed)
        return [float(axes.clocks_mhz[k]) for k in clocks_to_try(costs, most_slowdown, remaining, trial_steps)]


def _clock_costs(seen: Iterable[Configuration], axes: Axes, table: CostTable, row: int, *, packed: bool) -> ClockCosts:
    """Return the costs of a class on the GPU count of a row, and the clocks that were measured on it."""
    gpus, top = int(axes.gpu_counts[row]), float(axes.clocks_mhz[-1])
    fewest = -(-gpus // axes.gpus_per_node)
    clocks = {
        top if clock is None else clock for n, nodes, _, _, clock in seen if (n, nodes <= fewest) == (gpus, packed)
    }
    times_s = table.step_time_s if packed else table.spread_step_time_s
    return ClockCosts(axes.clocks_mhz, times_s[row], table.power_w[row], np.isin(axes.clocks_mhz, list(clocks)))
