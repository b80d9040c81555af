"""Compute the numbers of a simulation, and estimates over several simulations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from powerflow.simulate.comparison import Estimate, Metrics
from powerflow.simulate.result import SimulationResult
from powerflow.units import HOUR_S


def metrics(result: SimulationResult, horizon_s: float) -> Metrics:
    """Return the numbers of a simulation, with energy as of `SimulationResult.energy_over`.

    The wait is from submission to the first GPUs, the makespan from the first submission to the last end. Slowdown is
    the completion time over the time alone as submitted.
    """
    jobs = result.jobs
    jct_s = jobs.jct_s
    p50_s, p99_s = np.percentile(jct_s, (50, 99))
    return Metrics(
        jct_mean_s=float(jct_s.mean()),
        jct_weighted_s=float(np.average(jct_s, weights=jobs.weight)),
        jct_p50_s=float(p50_s),
        jct_p99_s=float(p99_s),
        wait_mean_s=float((jobs.start_s - jobs.submit_s).mean()),
        slowdown_mean=float((jct_s / jobs.alone_s).mean()),
        makespan_s=float(jobs.finish_s.max() - jobs.submit_s.min()),
        gpu_hours=float(jobs.gpu_s.sum()) / HOUR_S,
        rescales_per_job=float(jobs.rescales.mean()),
        energy_j=result.energy_over(horizon_s),
    )


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and 95 % confidence interval (Student's t) of one value per seed; the interval of one is nan."""
    seen = np.asarray(values, dtype=np.float64)
    mean = float(seen.mean())
    if len(seen) < 2:
        return Estimate(mean, math.nan, math.nan)
    from scipy.special import stdtrit

    half = float(stdtrit(len(seen) - 1, 0.975) * seen.std(ddof=1) / math.sqrt(len(seen)))
    return Estimate(mean, mean - half, mean + half)
