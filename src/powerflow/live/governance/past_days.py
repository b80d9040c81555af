"""Collect the jobs of past days for a replay: their submission times, their work, and their believed costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from powerflow.api.records import JobState
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job
from powerflow.live.jobs.active_job import scheduler_job
from powerflow.live.jobs.cost_learning import CostLearning, class_of
from powerflow.scheduler.events import CostLearned
from powerflow.store.models import StoredJob
from powerflow.store.store import Store
from powerflow.units import DAY_S

#: Least share of a day that must have been seen.
LEAST_SHARE = 1.0 / 24.0


@dataclass(frozen=True, slots=True)
class PastDays:
    """The jobs of past days, oldest day first. The last day ends at the present.

    Attributes:
        days: The jobs of each day; their times of submission count from the beginning of the day.
        shares: For each day, the part of the day (0 to 1) in which the cluster existed; below 1 only for the first day.
        costs: Believed costs by (cost class, GPU type).
        news: Costs of those classes of jobs that the scheduler was not told yet.
    """

    days: Sequence[Sequence[Job]]
    shares: Sequence[float]
    costs: Mapping[tuple[str, str], CostTable]
    news: Sequence[CostLearned]


def past_days(store: Store, learning: CostLearning, axes: Mapping[str, Axes], now_s: float, most: int) -> PastDays:
    """Return the jobs of the last days, at most ``most`` days.

    No day is returned if the first job of the cluster was submitted less than an hour ago.
    """
    first_s = store.first_submission_s()
    stored = [] if first_s is None else store.submitted(now_s - most * DAY_S)
    costs: dict[tuple[str, str], CostTable] = {}
    news: list[CostLearned] = []
    jobs = []
    for job in stored:
        kind = class_of(job.spec, job.user)
        news += learning.expect(kind)
        costs |= {(kind.name, name): learning.table(kind.name, name) for name in axes}
        steps = _steps(job, learning, kind.name)
        seen = scheduler_job(job.id, job.spec, kind, job.submitted_s, steps)
        if steps > 0 and _runs(seen, costs, axes):
            jobs.append(seen)
    days, shares = [], []
    for back in range(most):
        begin_s = now_s - (back + 1) * DAY_S
        share = 0.0 if first_s is None else min(1.0, (begin_s + DAY_S - first_s) / DAY_S)
        if share < LEAST_SHARE:
            break
        today = [job for job in jobs if begin_s <= job.submit_s < begin_s + DAY_S]
        days.append([replace(job, submit_s=job.submit_s - begin_s) for job in today])
        shares.append(share)
    return PastDays(days[::-1], shares[::-1], costs, news)


def _steps(job: StoredJob, learning: CostLearning, cost_class: str) -> float:
    """Return how many steps a job had, or is believed to have."""
    if job.state.ended and (job.state is not JobState.COMPLETED or job.steps > 0):
        return job.steps
    return job.steps_total or learning.believed_steps(job.spec, cost_class)


def _runs(job: Job, costs: Mapping[tuple[str, str], CostTable], axes: Mapping[str, Axes]) -> bool:
    """Return True if a job can run on some GPU count of this cluster as it is today."""
    for name in axes if job.gpu_type is None else {job.gpu_type} & axes.keys():
        counts = axes[name].gpu_counts
        usable = [job.runs_on(int(count)) for count in counts]
        if np.isfinite(costs[job.cost_class, name].step_time_s[usable, -1]).any():
            return True
    return False
