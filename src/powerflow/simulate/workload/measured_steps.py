"""Scale true costs so that step times agree with a log that has both durations and iterations of jobs."""

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
    """Factors that scale the modelled step times of each class of jobs to the step times in a log.

    Attributes:
        factors: Class of jobs → measured step time divided by modelled step time, as geometric mean over the jobs.
        jobs: Number of jobs with a measured step time.
    """

    factors: Mapping[str, float]
    jobs: int

    def fact(self) -> str:
        """Return a sentence that says which step times were scaled; "" if none was scaled."""
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
    """Compare the step times in a log with the true costs, and return the factors between them.

    The step time of a job in the log is its duration divided by its iterations. The costs are those of one pool (the
    reference pool) at the maximum clock. A job whose GPU request was cut is left out, because its step time was
    measured on more GPUs.

    Args:
        jobs: The jobs as logged.
        asked: Number of GPUs of each job, after requests were cut.
        classes: Class of each job.
        truth: (class of jobs, GPU type) → true cost table.
        axes: GPU counts and clocks of the reference pool. The log is assumed to come from its GPU type.
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
    """Return the cost tables with the step times of each class multiplied by its factor.

    The same factor is used on all GPU types. Watts do not change.
    """
    return {
        (name, gpu_type): dataclasses.replace(
            table,
            step_time_s=table.step_time_s * factors.get(name, 1.0),
            spread_step_time_s=table.spread_step_time_s * factors.get(name, 1.0),
        )
        for (name, gpu_type), table in truth.items()
    }


def step_on(table: CostTable, axes: Axes, gpus: int) -> float:
    """Return the seconds per iteration of a class on ``gpus`` GPUs at the maximum clock.

    If the class cannot run on this GPU count, the next lower count on which it can run is used.
    """
    column = int(np.searchsorted(axes.gpu_counts, gpus, side="right")) - 1
    finite = table.step_time_s[: column + 1, -1]
    return float(finite[np.isfinite(finite)][-1])
