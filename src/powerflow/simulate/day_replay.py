"""Simulate single days of jobs at several prices of energy: the energy governor learns from these.

The costs are those that the scheduler believes. Each day begins with an empty cluster and runs until its last job ends.
"""

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
    """Return the energy that the jobs submitted on one day use at each price, under the policy ``prices``.

    Args:
        believed: The jobs, with believed sizes and costs.
        day: Number of the day; day 0 begins at 0 s.
        prices: λ_E, seconds per joule, ascending, the first 0.
        projects: Projects to report beside the whole cluster.

    Returns:
        One response per scope. Scope "" is the cluster: joules above idle. Other scopes are projects: joules of their
        jobs, including the idle draw of the GPUs that they hold. Scopes without a submitted job are left out.
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
    """Return `replay_day` for several days of a live cluster.

    Args:
        cluster, axes: The cluster, and per GPU type the GPU counts and clocks to choose from.
        costs: Believed costs by (cost class, GPU type).
        days: The jobs of each day in order of submission, with submission times counted from the start of the day.
        prices, projects: As for `replay_day`.
    """
    return [
        replay_day(Workload("a day of this cluster", jobs, cluster, axes, costs, {}), 0, prices, projects=projects)
        for jobs in days
    ]


def compare_days(
    cluster: ClusterSpec,
    axes: Mapping[str, Axes],
    costs: Mapping[tuple[str, str], CostTable],
    days: Sequence[Sequence[Job]],
    price: float,
) -> tuple[float, float, float, float]:
    """Simulate days of a live cluster twice: first come, first served as requested, and with PowerFlow and its rules.

    Args:
        cluster, axes, costs, days: As for `replay_days`.
        price: λ_E, seconds per joule, for the second simulation.

    Returns:
        Mean completion time (s) and joules of all jobs as requested, then the same two numbers with PowerFlow.
    """
    found = []
    for policy, energy_price in ((load("fifo"), 0.0), (with_rules(load("prices")), price)):
        jct_s, energy_j = [], 0.0
        for jobs in days:
            workload = Workload("a day of this cluster", jobs, cluster, axes, costs, {})
            run = simulate(workload, copy.deepcopy(policy), energy_price=energy_price)
            jct_s += run.jobs.jct_s.tolist()
            energy_j += float(run.jobs.energy_j.sum())
        found.append((sum(jct_s) / len(jct_s), energy_j))
    return (*found[0], *found[1])


def _cluster(run: SimulationResult) -> tuple[float, float, float]:
    # a wrong model may believe that a GPU at a low clock draws less than an idle one
    above_j = max(0.0, run.metered_j - run.tail_w * run.end_s)
    share = run.jobs.energy_j / run.jobs.energy_j.sum()
    # on average over its time in the cluster, a job still has half of its energy to use
    under_way_j = above_j * float(share @ run.jobs.jct_s) / 2.0 / DAY_S
    return above_j, max(0.0, float(run.timeline.power_w.max()) - run.tail_w), under_way_j


def _project(run: SimulationResult, its: BoolArray) -> tuple[float, float, float]:
    energy_j = run.jobs.energy_j[its]
    # a project may hold every GPU, so its highest power is that of the cluster
    return float(energy_j.sum()), float(run.timeline.power_w.max()), float(energy_j @ run.jobs.jct_s[its]) / 2.0 / DAY_S
