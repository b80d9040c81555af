"""Simulate single days of jobs at several energy prices, so that the governor of a budget learns their effect.

The costs of jobs are the costs that the scheduler believes. Each simulated day begins with an empty cluster and runs
until its last job has ended.
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
    """Simulate the jobs of one day at several energy prices with the policy ``prices``, and return the energy used.

    Args:
        believed: The jobs, with the sizes and costs that the scheduler believes.
        day: Number of the day; day 0 begins at 0 s.
        prices: λ_E, seconds per joule, in ascending order; the first price is 0.
        projects: Names of projects whose energy is returned as well.

    Returns:
        Energy at each price, by name. The name "" stands for the cluster: its joules above idle draw. The other names
        are projects: the joules of their jobs, with the idle draw of the GPUs that these hold. A name without any job
        on this day is left out.
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
    """Simulate several days of a live cluster at several energy prices, and return the energy used on each day.

    Args:
        cluster, axes: The cluster; GPU type → the GPU counts and clocks to choose from.
        costs: (class of jobs, GPU type) → the costs that the scheduler believes.
        days: The jobs of each day in order of submission. Their submission times count from the start of their day.
        prices: λ_E, seconds per joule, in ascending order; the first price is 0.
        projects: Names of projects whose energy is returned beside that of the whole cluster.

    Returns:
        For each day: scope (the cluster "" or a project) → energy at each price, as from `replay_day`.
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
    """Simulate days of a live cluster twice: without PowerFlow, and with PowerFlow and its rules.

    Without PowerFlow, jobs run in order of submission, as their owners requested.

    Args:
        cluster, axes: The cluster; GPU type → the GPU counts and clocks to choose from.
        costs: (class of jobs, GPU type) → the costs that the scheduler believes.
        days: The jobs of each day in order of submission. Their submission times count from the start of their day.
        price: λ_E for the simulation with PowerFlow, seconds per joule.

    Returns:
        Mean completion time (s) and joules of all jobs without PowerFlow, then the same two numbers with PowerFlow.
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
