"""Compute the dual function of the bound: the least cost of all jobs at given prices of GPUs and energy.

The proof and the symbols are in ``docs/bound.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.simulate.bound.kernel import cheapest, gain_tables, spent

#: A pool index that means "any pool".
ANY_POOL = -1


@dataclass(frozen=True, slots=True, eq=False)
class JobArrays:
    """Jobs as plain arrays, each ``[J]`` (J jobs).

    Attributes:
        release_s: Time from which each job may run, seconds.
        work: Iterations of each job, > 0.
        weight: Weight of each job in the mean completion time, > 0.
        cost_class: Row of each job's class in the cost tables of a pool.
        gpus_min, gpus_max: Fewest and most GPUs on which each job can run.
        pool: The only pool on which each job may run, or `ANY_POOL`.
    """

    release_s: FloatArray
    work: FloatArray
    weight: FloatArray
    cost_class: IntArray
    gpus_min: IntArray
    gpus_max: IntArray
    pool: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class PoolCost:
    """A pool of equal GPUs, and the costs of each class of jobs on it.

    K is the number of classes, N the number of GPU counts, F the number of clocks.

    Attributes:
        gpu_counts: ``[N]`` GPU counts that a job can hold.
        step_time_s: ``[K, N, F]`` seconds per iteration; ``inf`` where a class cannot run.
        power_w: ``[K, N, F]`` watts of all GPUs of a job together, including idle draw.
        idle_w: Watts of one idle GPU.
        gpus: Number of GPUs that are up at the start.
        changes: Pairs of a time in seconds and the number of GPUs that are up from this time on, in order of time.
    """

    gpu_counts: IntArray
    step_time_s: FloatArray
    power_w: FloatArray
    idle_w: float
    gpus: int
    changes: Sequence[tuple[float, int]] = field(default=())

    @property
    def most_gpus(self) -> int:
        """The largest number of GPUs of this pool that are up at any time."""
        return max([self.gpus, *(gpus for _, gpus in self.changes)])

    def supply_gpu_s(self, grid_s: FloatArray) -> FloatArray:
        """Return the GPU-seconds that the pool offers in each interval of ``grid_s``, ``[T]``."""
        since = np.array([-np.inf, *(moment for moment, _ in self.changes)])
        gpus = np.array([self.gpus, *(count for _, count in self.changes)], dtype=float)
        until = np.append(since[1:], np.inf)
        begin, end = grid_s[:-1, None], grid_s[1:, None]
        overlap = np.clip(np.minimum(end, until) - np.maximum(begin, since), 0.0, None)
        supply: FloatArray = overlap @ gpus
        return supply


class Group(NamedTuple):
    """Jobs with the same class, the same weight and the same configurations.

    A configuration is a row (pool, GPU count) and a clock; there are R rows and F clocks.
    """

    speed: FloatArray  # [R, F] iterations per second; 0 where it cannot run
    added_w: FloatArray  # [R, F] watts above idle
    row_pool: IntArray  # [R]
    row_gpus: IntArray  # [R]
    weight: float
    release_s: FloatArray  # [J]
    work: FloatArray  # [J]

    def cost_on_free_gpus(self, energy_price: float) -> FloatArray:
        """Return the cost of one iteration in each configuration if GPUs cost nothing, weighted seconds, ``[R, F]``.

        The cost is (w + λ_E·D)/S, with the weight w, the watts above idle D and the iterations per second S.
        """
        with np.errstate(divide="ignore"):
            cost: FloatArray = (self.weight + energy_price * self.added_w) / self.speed
        return cost


class DualValue(NamedTuple):
    """The value of the dual function (a lower bound) at given prices, and its supergradient (slope in each price)."""

    value_s: float  # weighted seconds: the bound on Σ w·flow + λ_E·joules above idle
    excess_gpu_s: FloatArray  # [P, T] GPU-seconds that the relaxed jobs use beyond the supply: ∂/∂λ_G
    energy_j: float  # joules above idle that the relaxed jobs use: ∂/∂λ_E


def group_jobs(jobs: JobArrays, pools: Sequence[PoolCost]) -> list[Group]:
    """Group the jobs that have the same configurations, costs and weight.

    Raises:
        InputError: An array of a job or pool has impossible values, or a job cannot run on any pool.
    """
    _check(jobs, pools)
    limits = np.stack([jobs.cost_class, jobs.gpus_min, jobs.gpus_max, jobs.pool], axis=1)
    kinds, first, kind = np.unique(limits, axis=0, return_index=True, return_inverse=True)
    rows_of = [_rows(pools, *(int(x) for x in row)) for row in kinds]
    for rows, job in zip(rows_of, first, strict=True):
        if not len(rows):
            raise InputError(
                f"job {job} cannot run on {jobs.gpus_min[job]} to {jobs.gpus_max[job]} GPUs of any pool it may use",
                where="bound",
                fix="give the job other GPU counts, or enlarge the cluster",
            )

    # different limits may allow the same configurations: group by the configurations
    alike: dict[tuple[int, bytes, float], list[int]] = {}
    for job, (k, weight) in enumerate(zip(kind.ravel(), jobs.weight, strict=True)):
        alike.setdefault((int(jobs.cost_class[job]), rows_of[k].tobytes(), float(weight)), []).append(job)
    groups = []
    for (cost_class, choice, weight), members in alike.items():
        row_pool, row_level, row_gpus = np.frombuffer(choice, np.int64).reshape(-1, 3).T.copy()
        speed, added_w = _configurations(pools, cost_class, row_pool, row_level, row_gpus)
        groups.append(Group(speed, added_w, row_pool, row_gpus, weight, jobs.release_s[members], jobs.work[members]))
    return groups


def dual(
    groups: Sequence[Group],
    supply_gpu_s: FloatArray,
    grid_s: FloatArray,
    gpu_price: FloatArray,
    energy_price: float,
    nodes: int,
) -> DualValue:
    """Evaluate the dual function at given prices. Its value is a lower bound for any prices.

    Args:
        groups: All jobs, in groups of similar jobs.
        supply_gpu_s: ``[P, T]`` GPU-seconds that each pool offers in each time interval.
        grid_s: ``[T + 1]`` ends of the time intervals, from the first release of a job to beyond the last release.
        gpu_price: ``[P, T]`` price of a GPU, λ_G ≥ 0, weighted seconds per GPU-second; 0 after the last interval.
        energy_price: λ_E ≥ 0, weighted seconds per joule.
        nodes: How many values of the worth of an iteration are tried, ≥ 2. More values make the bound tighter.
    """
    value = -float(np.sum(gpu_price * supply_gpu_s))
    used = np.zeros_like(gpu_price)
    energy_j = 0.0
    dearest = gpu_price.max(axis=1)
    for group in groups:
        worth = _worths(group, energy_price, dearest, nodes)
        gains = worth * group.speed[:, :, None] - energy_price * group.added_w[:, :, None]
        clock = gains.argmax(axis=1)
        envelope = np.take_along_axis(gains, clock[:, None, :], axis=1)[:, 0]
        added_w = np.take_along_axis(group.added_w, clock, axis=1)

        shape = (len(grid_s) - 1, nodes)
        gain, choice, held_s = np.empty(shape), np.empty(shape, np.int64), np.zeros(shape)
        gain_tables(worth, envelope, group.row_pool, group.row_gpus, gpu_price, gain, choice)
        first = np.searchsorted(grid_s, group.release_s, side="right") - 1
        value += cheapest(worth, grid_s, gain, group.weight, group.release_s, first, group.work, held_s)
        energy_j += spent(held_s, choice, group.row_pool, group.row_gpus, added_w, used)
    return DualValue(value, used - supply_gpu_s, energy_j)


def _worths(group: Group, energy_price: float, dearest: FloatArray, nodes: int) -> FloatArray:
    """Return the worths of an iteration to try: from its cost on free GPUs to its cost at the highest GPU price.

    Other worths do not matter (``docs/bound.md`` §4). The fourth roots of the worths are evenly spaced. Where GPUs are
    expensive, the steps between worths must be small compared with the cost of waiting, so that a logarithmic scale
    would be too coarse. The first worth must not exceed the cost on free GPUs, or waiting for ever would pay. It is
    slightly smaller than this cost because of rounding.
    """
    cost = group.cost_on_free_gpus(energy_price)
    lowest = cost.min() * (1.0 - 1e-12)
    with np.errstate(divide="ignore"):
        rent = (dearest[group.row_pool] * group.row_gpus)[:, None] / group.speed
    highest = max((cost + rent).min(), lowest * 1.001)
    worths: FloatArray = np.linspace(lowest**0.25, highest**0.25, nodes) ** 4
    worths[0] = lowest
    return worths


def _rows(pools: Sequence[PoolCost], cost_class: int, gpus_min: int, gpus_max: int, only: int) -> IntArray:
    """Return the rows of cost tables that a job can use, ``[R, 3]``: pool, position of the GPU count, GPU count."""
    rows = [
        (p, i, int(n))
        for p, pool in enumerate(pools)
        for i, n in enumerate(pool.gpu_counts)
        if only in (ANY_POOL, p)
        and gpus_min <= n <= min(gpus_max, pool.most_gpus)
        and np.isfinite(pool.step_time_s[cost_class, i]).any()
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _configurations(
    pools: Sequence[PoolCost], cost_class: int, row_pool: IntArray, row_level: IntArray, row_gpus: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Return the iterations per second and the watts above idle in each configuration, ``[R, F]`` each.

    A clock that a pool does not have gets 0 iterations per second.
    """
    clocks = max(pool.step_time_s.shape[2] for pool in pools)
    speed, added_w = np.zeros((len(row_pool), clocks)), np.zeros((len(row_pool), clocks))
    for r, (p, i, n) in enumerate(zip(row_pool, row_level, row_gpus, strict=True)):
        step_s = pools[p].step_time_s[cost_class, i]
        runs = np.flatnonzero(np.isfinite(step_s))
        speed[r, runs] = 1.0 / step_s[runs]
        added_w[r, runs] = pools[p].power_w[cost_class, i, runs] - n * pools[p].idle_w
    if (added_w < -1e-9 * row_gpus[:, None]).any():
        raise InputError(
            f"class {cost_class} draws less than idle GPUs do",
            where="bound",
            fix="lower idle_w, or correct the power table",
        )
    return speed, np.maximum(added_w, 0.0)


def _check(jobs: JobArrays, pools: Sequence[PoolCost]) -> None:
    """Check that the arrays of jobs and pools have possible values."""
    if not len(jobs.work):
        raise InputError("there are no jobs", where="bound")
    for name, values, good in (
        ("release_s", jobs.release_s, np.isfinite(jobs.release_s)),
        ("work", jobs.work, np.isfinite(jobs.work) & (jobs.work > 0)),
        ("weight", jobs.weight, np.isfinite(jobs.weight) & (jobs.weight > 0)),
    ):
        if not good.all():
            j = int(np.argmin(good))
            raise InputError(f"{name} of job {j} is {values[j]:g}", where="bound", fix="give a finite number > 0")
    for p, pool in enumerate(pools):
        if pool.gpus < 0 or any(gpus < 0 for _, gpus in pool.changes):
            raise InputError(f"pool {p} has a negative number of GPUs", where="bound")
        moments = [moment for moment, _ in pool.changes]
        if moments != sorted(moments):
            raise InputError(f"changes of pool {p} are not in order of time", where="bound")
        step_s = pool.step_time_s
        if not (step_s > 0).all() or not np.isfinite(pool.power_w[np.isfinite(step_s)]).all():
            raise InputError(f"tables of pool {p} hold a step time ≤ 0 or a power that is no number", where="bound")
