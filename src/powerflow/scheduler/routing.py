"""Choose a pool for jobs that may use several GPU types."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from powerflow.job import Job
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool import Pool


def best_pool(pools: Mapping[str, Pool], job: Job, demand: Mapping[str, int]) -> Pool:
    """Return the pool in which a job should end first.

    This is the pool with the smallest product of two numbers: the job's shortest step time there, and how many times
    the pool's GPUs are asked for (at least 1).

    Args:
        pools: The pools, by GPU type.
        job: The job.
        demand: By GPU type, how many GPUs the other jobs of the pool hold or wait for.
    """

    def expected_s(pool: Pool) -> float:
        row = pool.costs.row(job.cost_class, job.gpus_allowed)
        step_time_s, _ = pool.costs.arrays()
        counts = pool.axes.gpu_counts
        usable = (counts >= job.gpus_min) & (counts <= max(job.gpus, job.gpus_min))
        if pool.occupancy.up == 0 or not usable.any():
            return math.inf
        crowd = max(1.0, (demand[pool.gpu_type] + job.gpus) / pool.occupancy.up)
        return crowd * float(step_time_s[row, usable, -1].min())

    return min(pools.values(), key=expected_s)


def reroutes(pools: Mapping[str, Pool], ledger: Ledger, pool_of: Mapping[int, Pool]) -> Iterator[tuple[int, Pool]]:
    """Yield each waiting job that should move to another pool, together with its new pool.

    Jobs are considered in order of submission, as if the jobs before them had already moved. A job that requests a
    certain GPU type stays in its pool.

    Args:
        pools: The pools, by GPU type.
        ledger: The active jobs.
        pool_of: The present pool of each job, by slot (row of the ledger).

    Yields:
        The slot of the job, and its new pool.
    """
    if len(pools) == 1:
        return
    demand = {name: pool.demand(ledger) for name, pool in pools.items()}
    for slot in sorted(pool_of, key=ledger.rows["id"].__getitem__):
        job, pool = ledger.job(slot), pool_of[slot]
        if ledger.rows["gpus"][slot] or job.gpu_type is not None:
            continue
        demand[pool.gpu_type] -= job.gpus  # demand of the other jobs only
        best = best_pool(pools, job, demand)
        demand[best.gpu_type] += job.gpus
        if best is not pool:
            yield slot, best
