"""How fairly a simulation treated the projects: finish-time fairness and Jain's index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray
from powerflow.cluster.spec import NodeGroup, build_cluster
from powerflow.errors import InputError
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.workload.workload import Workload
from powerflow.units import HOUR_S


@dataclass(frozen=True, slots=True)
class ProjectFairness:
    """How one project fared.

    Attributes:
        project: Its name.
        jobs: How many jobs it had.
        gpu_hours: GPU-hours they held.
        jct_mean_s: Their mean JCT.
        rho_mean, rho_worst: Finish-time fairness of its jobs; below 1 sharing paid for them.
    """

    project: str
    jobs: int
    gpu_hours: float
    jct_mean_s: float
    rho_mean: float
    rho_worst: float


@dataclass(frozen=True, slots=True)
class Fairness:
    """How fair it was.

    Attributes:
        projects: By project, in alphabetical order.
        jain_rho: Jain's index of the projects' mean ρ: 1 if all gained or lost alike.
        jain_gpu_hours: Jain's index of the GPU-hours that projects held.
        rho_worst: The worst ρ of any job.
    """

    projects: tuple[ProjectFairness, ...]
    jain_rho: float
    jain_gpu_hours: float
    rho_worst: float


def jain(values: npt.ArrayLike) -> float:
    """Jain's index ``(Σx)² / (n·Σx²)`` (Jain, Chiu, Hawe 1984) of values ≥ 0: 1 if all are equal, 1/n if one has all.

    Raises:
        InputError: No values, or one of them negative or not finite.
    """
    seen = np.asarray(values, np.float64)
    if not seen.size or not np.isfinite(seen).all() or (seen < 0).any():
        raise InputError("Jain's index needs at least one value, all of them finite and ≥ 0")
    squares = float((seen**2).sum())
    return float(seen.sum() ** 2 / (seen.size * squares)) if squares > 0 else 1.0


def finish_time_fairness(shared_s: FloatArray, isolated_s: FloatArray) -> FloatArray:
    """ρ of each job, ``[J]``: JCT over JCT in a 1/N share of its own (Mahajan et al., Themis, NSDI'20)."""
    rho: FloatArray = shared_s / isolated_s
    return rho


def isolated(workload: Workload, project: str, projects: int) -> Workload:
    """A project's jobs on 1/N of the cluster, all its own.

    Args:
        workload: Everybody's.
        project: Whose jobs to keep.
        projects: N.

    Raises:
        InputError: A pool has fewer GPUs than there are projects, or (on simulation) a job needs more than the share.
    """
    groups = []
    for name, nodes in workload.cluster.pools().items():
        gpus, each = sum(node.gpus for node in nodes) // projects, max(node.gpus for node in nodes)
        if gpus == 0:
            raise InputError(f"1/{projects} of the {name} GPUs is less than one", where=workload.title)
        if gpus >= each:
            groups.append(NodeGroup(name, gpus // each, each))
        if gpus % each:
            groups.append(NodeGroup(name, 1, gpus % each))
    cluster = build_cluster(groups, source=f"1/{projects} of {workload.cluster.source}")
    jobs = tuple(job for job in workload.jobs if job.project == project)
    return dataclasses.replace(workload, title=f"{project} alone", jobs=jobs, cluster=cluster)


def fairness(workload: Workload, result: SimulationResult, run: Callable[[Workload], SimulationResult]) -> Fairness:
    """How fairly a simulation treated the projects of its jobs.

    Args:
        workload: What was simulated.
        result: What came of it.
        run: Simulates a workload the same way: each project's jobs are run on 1/N of the cluster, N projects.

    Raises:
        InputError: See `isolated`.
    """
    names = sorted({job.project for job in workload.jobs})
    alone = {name: run(isolated(workload, name, len(names))) for name in names}
    return compare([job.project for job in workload.jobs], result, alone)


def compare(of: Sequence[str], result: SimulationResult, alone: Mapping[str, SimulationResult]) -> Fairness:
    """The same from results.

    Args:
        of: ``[J]`` project of each job of ``result``.
        result: All projects together.
        alone: By project, its jobs in their own share, in the same order.
    """
    who = np.array(of)
    rows = []
    for name in sorted(alone):
        mine = who == name
        jct_s = result.jobs.jct_s[mine]
        rho = finish_time_fairness(jct_s, alone[name].jobs.jct_s)
        gpu_hours = float(result.jobs.gpu_s[mine].sum()) / HOUR_S
        rows.append(
            ProjectFairness(name, len(rho), gpu_hours, float(jct_s.mean()), float(rho.mean()), float(rho.max()))
        )
    return Fairness(
        tuple(rows),
        jain([row.rho_mean for row in rows]),
        jain([row.gpu_hours for row in rows]),
        max(row.rho_worst for row in rows),
    )
