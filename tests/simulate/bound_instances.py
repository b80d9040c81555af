"""Jobs and costs for tests of the bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from powerflow.arrays import FloatArray
from powerflow.simulate.bound.dual import ANY_POOL, JobArrays, PoolCost

IDLE_W = 50.0


def jobs_of(
    release_s: ArrayLike,
    work: Sequence[float] | FloatArray,
    *,
    weight: ArrayLike | None = None,
    cost_class: ArrayLike | None = None,
    gpus_min: ArrayLike = 1,
    gpus_max: ArrayLike = 64,
    pool: ArrayLike = ANY_POOL,
) -> JobArrays:
    count = len(work)
    return JobArrays(
        np.array(release_s, dtype=float),
        np.array(work, dtype=float),
        np.ones(count) if weight is None else np.array(weight, dtype=float),
        np.zeros(count, np.int64) if cost_class is None else np.array(cost_class, np.int64),
        np.broadcast_to(np.array(gpus_min, np.int64), count).copy(),
        np.broadcast_to(np.array(gpus_max, np.int64), count).copy(),
        np.broadcast_to(np.array(pool, np.int64), count).copy(),
    )


def one_gpu(step_time_s: float = 1.0, watts: float = 250.0, gpus: int = 1) -> PoolCost:
    """A pool on which jobs run on one GPU at one clock."""
    return PoolCost(np.array([1]), np.full((1, 1, 1), step_time_s), np.full((1, 1, 1), watts), IDLE_W, gpus)


def crowd(seed: int, count: int = 120, gpus: int = 6) -> tuple[JobArrays, PoolCost]:
    rng = np.random.default_rng(seed)
    counts = np.array([1, 2, 3, 4])
    clocks = np.array([0.6, 0.8, 1.0])
    speed = counts[:, None] ** rng.uniform(0.5, 0.9, (2, 1, 1)) * clocks
    power_w = counts[:, None] * (IDLE_W + rng.uniform(150, 300, (2, 1, 1)) * clocks**2.5)
    jobs = jobs_of(
        np.sort(rng.uniform(0, 400, count)),
        rng.lognormal(2.5, 1.0, count),
        cost_class=rng.integers(0, 2, count),
        gpus_max=rng.integers(1, 5, count),
    )
    return jobs, PoolCost(counts, 1.0 / speed, power_w, IDLE_W, gpus)
