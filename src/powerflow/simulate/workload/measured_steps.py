"""Scale costs to the step times of a log: duration ÷ iterations, if it has both."""

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
    """Factors that scale the costs of each class to a log's step times.

    Attributes:
        factors: By class, measured ÷ modelled step time: the geometric mean over its jobs.
        jobs: Number of jobs with a measured step time.
    """

    factors: Mapping[str, float]
    jobs: int

    def fact(self) -> str:
        """Return what was scaled, in words; "" if nothing was."""
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
    """Compare logged step times with the true costs on the reference pool, at the maximum clock.

    Jobs whose requests were cut are left out: they were measured on more GPUs.

    Args:
        jobs: The jobs as logged.
        asked: GPUs of each job.
        classes: Cost class of each job.
        truth: Cost tables by class and GPU type.
        axes: Axes of the reference pool, whose GPU type is assumed to be the log's.
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
    """Multiply the step times of each class by its factor, on all GPU types; watts do not change."""
    return {
        (name, gpu_type): dataclasses.replace(
            table,
            step_time_s=table.step_time_s * factors.get(name, 1.0),
            spread_step_time_s=table.spread_step_time_s * factors.get(name, 1.0),
        )
        for (name, gpu_type), table in truth.items()
    }


def step_on(table: CostTable, axes: Axes, gpus: int) -> float:
    """Return seconds per iteration at the maximum clock, on this or the next lower count on which the class can run."""
    column = int(np.searchsorted(axes.gpu_counts, gpus, side="right")) - 1
    finite = table.step_time_s[: column + 1, -1]
    return float(finite[np.isfinite(finite)][-1])
