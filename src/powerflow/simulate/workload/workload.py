"""Define a workload: the jobs of a simulation, their cluster, and their true costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.batch_range import BatchRange
from powerflow.cost.catalogue import family_model
from powerflow.cost.model import JobModel
from powerflow.cost.table import Axes, CostTable
from powerflow.errors import InputError
from powerflow.job import Job


class Kind(NamedTuple):
    """What jobs of one class train.

    Attributes:
        model: The model family, or the name of a measured model.
        global_batch: The jobs' own global batch, samples per iteration over all GPUs.
        allowed: Other global batches that their owner allows; None if the batch must not change.
    """

    model: str
    global_batch: int
    allowed: BatchRange | None = None

    @property
    def cost_class(self) -> str:
        """Name of the class."""
        name = f"{self.model}/{self.global_batch}"
        return name if self.allowed is None else f"{name} ({self.allowed})"

    @property
    def as_logged(self) -> Kind:
        """The same jobs at their own batch, as the log has them."""
        return self._replace(allowed=None)


def with_logged(kinds: Iterable[Kind]) -> list[Kind]:
    """Return each kind and the same kind at its logged batch, without duplicates, ordered by model and batch."""
    every = {each for kind in kinds for each in (kind, kind.as_logged)}
    return sorted(every, key=lambda kind: (kind.model, kind.global_batch, str(kind.allowed or "")))


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Everything that is true in a simulation, whatever the scheduler believes.

    Attributes:
        title: Source of the jobs, in one line.
        jobs: Jobs in order of submission; the first job is submitted at 0 s or later.
        cluster: The cluster, with GPU types named as in the built-in catalogue.
        axes: GPU type → the GPU counts and clocks to choose from.
        truth: (class of jobs, GPU type) → true cost table. The scheduler never sees these tables.
        facts: How the workload was made: label → words (models, seed, scaling of load, …).
        models: (class of jobs, GPU type) → model fitted to measurements, for some classes. A scheduler that does not
            know the truth begins with this model. For all other classes it begins with a model of the built-in
            catalogue.
        kinds: Class of jobs → what these jobs train. Only a scheduler that does not know the truth needs it.
    """

    title: str
    jobs: Sequence[Job]
    cluster: ClusterSpec
    axes: Mapping[str, Axes]
    truth: Mapping[tuple[str, str], CostTable]
    facts: Mapping[str, str]
    models: Mapping[tuple[str, str], JobModel] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)


def alone_times(workload: Workload) -> FloatArray:
    """Return the seconds that each job would take alone on the cluster, ``[J]``.

    The job then runs on its requested GPUs of the best GPU type, at maximum clock, without waiting. If it cannot run on
    its requested GPU count, the next lower count is used, or else the next higher count.
    """

    @cache
    def step_s(cost_class: str, gpus: int, gpu_type: str | None) -> float:
        times = []
        for axes, table in _usable(workload, cost_class, gpu_type):
            runs = np.isfinite(table.step_time_s[:, -1])
            below = table.step_time_s[runs & (axes.gpu_counts <= gpus), -1]
            above = table.step_time_s[runs & (axes.gpu_counts > gpus), -1]
            times += [float(step) for step in (*below[-1:], *above[:1])][:1]
        return min(times, default=math.nan)

    return np.array([job.iterations * step_s(job.cost_class, job.gpus, job.gpu_type) for job in workload.jobs])


def prior_of(workload: Workload, cost_class: str, gpu_type: str) -> JobModel:
    """Return the model with which a scheduler begins for a class of jobs, if it does not know the true costs."""
    known = workload.models.get((cost_class, gpu_type))
    return known or family_model(workload.kinds[cost_class].model, gpu_type)


def check_workload(workload: Workload) -> None:
    """Check that the jobs of a workload are possible.

    Raises:
        InputError: The workload has no job, two jobs have the same name, times, iterations or weights are impossible,
            or a job cannot run on any GPU count.
    """

    @cache
    def runs(cost_class: str, gpus_min: int, gpus_max: int, gpu_type: str | None) -> bool:
        return any(
            np.isfinite(table.step_time_s[(axes.gpu_counts >= gpus_min) & (axes.gpu_counts <= gpus_max), -1]).any()
            for axes, table in _usable(workload, cost_class, gpu_type)
        )

    if not workload.jobs:
        raise InputError("there are no jobs to simulate", where=workload.title)
    names: set[str] = set()
    before_s = 0.0
    for job in workload.jobs:
        if job.id in names:
            raise InputError(f"two jobs are called {job.id!r}", where=workload.title)
        names.add(job.id)
        if not before_s <= job.submit_s < math.inf:
            raise InputError(
                f"job {job.id} is submitted at {job.submit_s:g} s, the one before at {before_s:g} s",
                where=workload.title,
                fix="give jobs in order of submission, from 0 s on",
            )
        before_s = job.submit_s
        if not 0 <= job.iterations < math.inf:
            raise InputError(
                f"job {job.id} has {job.iterations:g} iterations", where=workload.title, fix="give a number ≥ 0"
            )
        if not 0 < job.weight < math.inf:
            raise InputError(f"job {job.id} has weight {job.weight:g}", where=workload.title, fix="give a number > 0")
        if not runs(job.cost_class, job.gpus_min, job.gpus_max, job.gpu_type):
            raise InputError(
                f"job {job.id} can run on no GPU count from {job.gpus_min} to {job.gpus_max} of this cluster",
                where=workload.title,
                fix="give a larger cluster, or leave the job out",
            )


def _usable(workload: Workload, cost_class: str, gpu_type: str | None) -> Iterator[tuple[Axes, CostTable]]:
    """Yield each pool that a job may use, and the true costs of the job's class there."""
    for name, axes in workload.axes.items():
        table = workload.truth.get((cost_class, name))
        if table is not None and gpu_type in (None, name):
            yield axes, table
