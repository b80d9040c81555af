"""What is believed of each class while jobs run: a prior, sharpened by every new observation.

Refitting costs milliseconds, so it is done only when a configuration is seen that was never seen before. A repeat
sharpens the mean that stands in the table for that configuration, which needs no fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from powerflow.cost.fit import fit
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable
from powerflow.cost.tabulate import tabulate

Configuration = tuple[int, int, int, int, float | None]  # GPUs, nodes, local batch, accumulation, clock


@dataclass(slots=True)
class _Seen:
    """Repeats of one configuration: how many, and the sums that give their geometric means."""

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
        last = self.last
        return Observation(
            last.model,
            last.gpu_type,
            last.gpus,
            last.local_batch,
            math.exp(self.log_time / self.times),
            last.nodes,
            last.accumulation,
            last.clock_mhz,
            math.exp(self.log_power / self.powers) if self.powers else None,
        )


@dataclass(slots=True)
class _Class:
    """One class on one GPU type."""

    prior: JobModel
    global_batch: int
    seen: dict[Configuration, _Seen] = field(default_factory=dict)
    model: JobModel | None = None


class Learner:
    """Beliefs about classes of jobs, each started from a prior.

    Args:
        axes: Per GPU type, the counts and clocks that tables are made for.
    """

    def __init__(self, axes: Mapping[str, Axes]) -> None:
        self._axes = axes
        self._classes: dict[tuple[str, str], _Class] = {}

    def expect(self, cost_class: str, gpu_type: str, prior: JobModel, global_batch: int) -> None:
        """Start a class from a prior."""
        self._classes[cost_class, gpu_type] = _Class(prior, global_batch)

    def observe(self, cost_class: str, gpu_type: str, observations: Sequence[Observation]) -> bool:
        """Take note of measurements; True if the belief changed.

        Raises:
            KeyError: If the class was never expected on this GPU type.
        """
        known = self._classes[cost_class, gpu_type]
        configurations, news = len(known.seen), False
        for observation in observations:
            key = (
                observation.gpus,
                observation.nodes,
                observation.local_batch,
                observation.accumulation,
                observation.clock_mhz,
            )
            seen = known.seen.setdefault(key, _Seen(observation))
            seen.add(observation)
            news |= seen.times & (seen.times - 1) == 0  # the 1st, 2nd, 4th, 8th …
        if len(known.seen) > configurations:
            means = [seen.mean() for seen in known.seen.values()]
            known.model = fit(means, prior=known.prior, start=known.model, folds=0).model
        return news

    def rebatch(self, cost_class: str, gpu_type: str, global_batch: int, local_batch_max: int) -> None:
        """The batch of a class turned out to be another than was expected.

        Raises:
            KeyError: If the class was never expected on this GPU type.
        """
        known = self._classes[cost_class, gpu_type]
        known.global_batch = global_batch
        known.prior = replace(known.prior, local_batch_max=local_batch_max)
        if known.model is not None:
            known.model = replace(known.model, local_batch_max=local_batch_max)

    def model(self, cost_class: str, gpu_type: str) -> JobModel:
        """The formulas believed now: fitted, or the prior where nothing was seen.

        Raises:
            KeyError: If the class was never expected on this GPU type.
        """
        known = self._classes[cost_class, gpu_type]
        return known.model or known.prior

    def table(self, cost_class: str, gpu_type: str) -> CostTable:
        """What is believed now.

        Raises:
            KeyError: If the class was never expected on this GPU type.
        """
        known = self._classes[cost_class, gpu_type]
        measured = [seen.mean() for seen in known.seen.values()]
        return tabulate(known.model or known.prior, self._axes[gpu_type], known.global_batch, measured)
