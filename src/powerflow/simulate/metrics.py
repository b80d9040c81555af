"""Compute the result figures of a simulation, and mean values over several simulations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from powerflow.simulate.comparison import Estimate, Metrics
from powerflow.simulate.result import SimulationResult
from powerflow.units import HOUR_S


def metrics(result: SimulationResult, horizon_s: float) -> Metrics:
    """Return the result figures of a simulation, such as completion times, waits and energy.

    ``horizon_s`` is the time in seconds until which idle draw is counted (see `SimulationResult.energy_over`). The wait
    of a job is the time from its submission until it first gets GPUs. The makespan is the time from the first
    submission to the end of the last job. The slowdown of a job is its completion time divided by the time that it
    would take alone, on its requested GPUs at maximum clock.
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
    """Return the mean of values (one for each seed) with its 95 % confidence interval (Student's t).

    With a single value the ends of the interval are nan.
    """
    seen = np.asarray(values, dtype=np.float64)
    mean = float(seen.mean())
    if len(seen) < 2:
        return Estimate(mean, math.nan, math.nan)
    from scipy.special import stdtrit

    half = float(stdtrit(len(seen) - 1, 0.975) * seen.std(ddof=1) / math.sqrt(len(seen)))
    return Estimate(mean, mean - half, mean + half)
