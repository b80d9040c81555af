"""Replays of single days in the world as it is believed to be: what a governor learns from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from powerflow.arrays import BoolArray
from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.table import Axes, CostTable
from powerflow.energy.response import Response, response
from powerflow.job import Job
from powerflow.policy.registry import load
from powerflow.scheduler.rules.compose import with_rules
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.workload import Workload
from powerflow.units import DAY_S


def replay_day(
    believed: Workload, day: int, prices: Sequence[float], *, projects: Sequence[str] = ()
) -> dict[str, Response]:
    """What the arrivals of a day cost at each price, run to their end from an empty cluster.

    Args:
        believed: Jobs, with costs as believed.
        day: Counted from 0, at 0 s.
        prices: λ_E, seconds per joule, ascending, the first 0.
        projects: Whose budgets are to be governed besides the cluster's.

    Returns:
        By scope, "" being the cluster: joules above idle. Of a project: joules of its jobs, the idle draw of the GPUs
        they hold included, as their accounts have it. A scope without arrivals is left out.
    """
    from_s, to_s = day * DAY_S, (day + 1) * DAY_S
    jobs = [replace(job, submit_s=job.submit_s - from_s) for job in believed.jobs if from_s <= job.submit_s < to_s]
    if not jobs:
        return {}
    part = replace(believed, jobs=jobs)
    of = np.array([job.project for job in jobs])
    runs = [(price, simulate(part, load("prices"), energy_price=price)) for price in prices]
    found = {"": response([(price, *_cluster(run)) for price, run in runs])}
    for project in projects:
        its = of == project
        if its.any():
            found[project] = response([(price, *_project(run, its)) for price, run in runs])
    return found


def replay_days(
    cluster: ClusterSpec,
    axes: Mapping[str, Axes],
    costs: Mapping[tuple[str, str], CostTable],
    days: Sequence[Sequence[Job]],
    prices: Sequence[float],
    projects: Sequence[str],
) -> list[dict[str, Response]]:
    """What days of a live cluster would cost at each price, as its controller believes costs to be.

    Args:
        cluster, axes: Where.
        costs: Believed costs by (cost class, GPU type).
        days: Jobs of each day, with times of submission from its beginning, in order.
        prices: λ_E, seconds per joule, ascending, the first 0.
        projects: See `replay_day`.

    Returns:
        For each day, as of `replay_day`.
    """
    found = []
    for jobs in days:
        workload = Workload("a day of this cluster", jobs, cluster, axes, costs, {})
        found.append(replay_day(workload, 0, prices, projects=projects))
    return found


def compare_days(
    cluster: ClusterSpec,
    axes: Mapping[str, Axes],
    costs: Mapping[tuple[str, str], CostTable],
    days: Sequence[Sequence[Job]],
    price: float,
) -> tuple[float, float, float, float]:
    """What days of a live cluster would have come to as asked, and under the policy with all rules.

    Args:
        cluster, axes, costs, days: As of `replay_days`; each day begins empty and runs to its end.
        price: λ_E, seconds per joule.

    Returns:
        Mean completion time (s) and joules of all jobs, first come, first served, as asked; then with the policy.
    """
    found = []
    for policy, at in ((load("fifo"), 0.0), (with_rules(load("prices")), price)):
        jct_s, energy_j = [], 0.0
        for jobs in days:
            workload = Workload("a day of this cluster", jobs, cluster, axes, costs, {})
            run = simulate(workload, copy.deepcopy(policy), energy_price=at)
            jct_s += run.jobs.jct_s.tolist()
            energy_j += float(run.jobs.energy_j.sum())
        found += [sum(jct_s) / len(jct_s), energy_j]
    asked_s, asked_j, acted_s, acted_j = found
    return asked_s, asked_j, acted_s, acted_j


def _cluster(run: SimulationResult) -> tuple[float, float, float]:
    # a model that is wrong may believe a GPU at a low clock to draw less than an idle one
    above_j = max(0.0, run.metered_j - run.tail_w * run.end_s)
    share = run.jobs.energy_j / run.jobs.energy_j.sum()
    # a job that is there has, on average over its stay, half of its energy still to use
    under_way_j = above_j * float(share @ run.jobs.jct_s) / 2.0 / DAY_S
    return above_j, max(0.0, float(run.timeline.power_w.max()) - run.tail_w), under_way_j


def _project(run: SimulationResult, its: BoolArray) -> tuple[float, float, float]:
    energy_j = run.jobs.energy_j[its]
    # a project may have all GPUs
    return float(energy_j.sum()), float(run.timeline.power_w.max()), float(energy_j @ run.jobs.jct_s[its]) / 2.0 / DAY_S
