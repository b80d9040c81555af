"""Scale costs to the step times of a log, which are duration ÷ iterations where it gives both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.cost.table import Axes, CostTable
from powerflow.trace.record import TraceJob


@dataclass(frozen=True, slots=True)
class StepScaling:
    """Factors by which a log's own step times scale the costs of each class.

    Attributes:
        factors: Class → measured ÷ modelled step time, geometric mean of its jobs.
        jobs: Jobs whose step time the log measured.
    """

    factors: Mapping[str, float]
    jobs: int

    def fact(self) -> str:
        """Say what was scaled, in plain words; "" if nothing was."""
        if not self.factors:
            return ""
        low, high = min(self.factors.values()), max(self.factors.values())
        return (
            f"{self.jobs:,} jobs log iterations and duration: the step times of their {len(self.factors)} classes are "
            f"scaled to these, by {low:.2g} to {high:.2g}; each job lasts as logged where it runs as logged"
        )


def step_scaling(
    jobs: Sequence[TraceJob],
    asked: Sequence[int],
    classes: Sequence[str],
    truth: Mapping[tuple[str, str], CostTable],
    axes: Axes,
) -> StepScaling:
    """Compare the step times that jobs measured with those of the truth on the reference pool, at the maximum clock.

    Jobs whose request was cut are left out: they were measured on more GPUs than they get.

    Args:
        jobs: As logged.
        asked: GPUs of each.
        classes: Cost class of each.
        truth: Cost tables by class and GPU type.
        axes: Of the reference pool, whose GPUs are taken to be the log's.
    """
    logs: dict[str, list[float]] = {}
    for job, gpus, name in zip(jobs, asked, classes, strict=True):
        if job.measured_step_s is not None and gpus == job.gpus:
            modelled_s = step_on(truth[name, axes.gpu_type], axes, gpus)
            logs.setdefault(name, []).append(math.log(job.measured_step_s / modelled_s))
    factors = {name: math.exp(math.fsum(found) / len(found)) for name, found in sorted(logs.items())}
    return StepScaling(factors, sum(map(len, logs.values())))


def scaled(
    truth: Mapping[tuple[str, str], CostTable], factors: Mapping[str, float]
) -> dict[tuple[str, str], CostTable]:
    """Multiply the step times of each class by its factor, on every GPU type; watts stay."""
    return {
        (name, gpu_type): dataclasses.replace(
            table,
            step_time_s=table.step_time_s * factors.get(name, 1.0),
            spread_step_time_s=table.spread_step_time_s * factors.get(name, 1.0),
        )
        for (name, gpu_type), table in truth.items()
    }


def step_on(table: CostTable, axes: Axes, gpus: int) -> float:
    """Seconds per iteration on so many GPUs at the maximum clock; on the next fewer where it cannot run on those."""
    column = int(np.searchsorted(axes.gpu_counts, gpus, side="right")) - 1
    finite = table.step_time_s[: column + 1, -1]
    return float(finite[np.isfinite(finite)][-1])
