"""Learn the costs of job classes while jobs run: start from a prior and refine it with each new observation.

A refit takes milliseconds, so it happens only when a configuration is measured for the first time. A repeated
measurement only changes that configuration's mean in the table, which needs no fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from powerflow.cost.batch_range import BatchRange
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
        known = self._classes[cost_class, gpu_type]
        measured = [seen.mean() for seen in known.seen.values()]
        model, axes = known.model or known.prior, self._axes[gpu_type]
        return tabulate_best(model, axes, known.global_batch, known.allowed, measured)
