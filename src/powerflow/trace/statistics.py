"""Compute statistics of a trace (a log of jobs), so that traces can be compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from powerflow.trace.record import Trace
from powerflow.units import HOUR_S

BIG_JOB_GPUS = 8  # a whole node of most clusters
QUANTILES = (0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a trace. A value that cannot be computed is None.

    Attributes:
        jobs: Number of jobs.
        span_s: Seconds from the first submission to the last.
        gpu_hours: GPU-hours of all jobs with known duration, plus ``earlier_gpu_hours``.
        earlier_gpu_hours: GPU-hours of earlier runs of jobs that were requeued.
        durations_known: Number of jobs with known duration.
        duration_s: Quantile (0 to 1) → duration in seconds.
        duration_mean_s: Mean duration, seconds.
        wait_s: Quantile (0 to 1) → seconds in the queue; None if the log has no waits.
        interarrival_cv: Standard deviation of the time between two submissions, divided by its mean; 1 for a Poisson
            process.
        gpus_mean: Mean number of requested GPUs.
        gpus_max: Largest number of requested GPUs.
        jobs_by_gpus: Number of GPUs → share of jobs.
        gpu_hours_by_gpus: Number of GPUs → share of GPU-hours.
        one_gpu_jobs: Share of jobs that request one GPU.
        big_job_gpu_hours: Share of GPU-hours of jobs with at least ``BIG_JOB_GPUS`` GPUs.
        demand_gpus: GPU-seconds ÷ ``span_s``: mean number of busy GPUs if no job had to wait.
        models: Model family → number of jobs; empty if the log names no models.
        outcomes: Outcome → number of jobs.
        skipped: Reason → number of lines that were skipped for this reason.
    """

    jobs: int
    span_s: float
    gpu_hours: float | None
    earlier_gpu_hours: float
    durations_known: int
    duration_s: Mapping[float, float] | None
    duration_mean_s: float | None
    wait_s: Mapping[float, float] | None
    interarrival_cv: float | None
    gpus_mean: float
    gpus_max: int
    jobs_by_gpus: Mapping[int, float]
    gpu_hours_by_gpus: Mapping[int, float] | None
    one_gpu_jobs: float
    big_job_gpu_hours: float | None
    demand_gpus: float | None
    models: Mapping[str, int]
    outcomes: Mapping[str, int]
    skipped: Mapping[str, int]


def describe(trace: Trace) -> Statistics:
    """Compute the statistics of a trace. The trace must have at least one job."""
    submit_s = np.array([job.submit_s for job in trace.jobs])
    duration_s = np.array([job.duration_s for job in trace.jobs])
    gpus = np.array([job.gpus for job in trace.jobs])
    waits_s = [job.wait_s for job in trace.jobs if job.wait_s is not None]
    known = ~np.isnan(duration_s)
    earlier_gpu_s = np.array([job.earlier_gpu_s for job in trace.jobs])
    gpu_s = np.where(known, gpus * duration_s, 0.0) + earlier_gpu_s
    total_gpu_s = math.fsum(gpu_s) if known.any() else None
    span_s = float(submit_s[-1] - submit_s[0])
    gaps_s = np.diff(submit_s)
    sizes, size_of = np.unique(gpus, return_inverse=True)
    by_size = np.bincount(size_of, weights=gpu_s)
    return Statistics(
        jobs=len(trace.jobs),
        span_s=span_s,
        gpu_hours=None if total_gpu_s is None else total_gpu_s / HOUR_S,
        earlier_gpu_hours=math.fsum(earlier_gpu_s) / HOUR_S,
        durations_known=int(known.sum()),
        duration_s=_quantiles(duration_s[known]),
        duration_mean_s=float(duration_s[known].mean()) if known.any() else None,
        wait_s=_quantiles(np.array(waits_s)),
        interarrival_cv=float(gaps_s.std() / gaps_s.mean()) if span_s > 0 else None,
        gpus_mean=float(gpus.mean()),
        gpus_max=int(gpus.max()),
        jobs_by_gpus=dict(zip(sizes.tolist(), (np.bincount(size_of) / len(gpus)).tolist(), strict=True)),
        gpu_hours_by_gpus=(
            dict(zip(sizes.tolist(), (by_size / total_gpu_s).tolist(), strict=True)) if total_gpu_s else None
        ),
        one_gpu_jobs=float((gpus == 1).mean()),
        big_job_gpu_hours=float(gpu_s[gpus >= BIG_JOB_GPUS].sum()) / total_gpu_s if total_gpu_s else None,
        demand_gpus=total_gpu_s / span_s if total_gpu_s is not None and span_s > 0 else None,
        models=dict(Counter(job.model for job in trace.jobs if job.model is not None).most_common()),
        outcomes=dict(Counter(str(job.outcome) for job in trace.jobs).most_common()),
        skipped=dict(Counter(line.why.partition(" (")[0] for line in trace.skipped).most_common()),
    )


def _quantiles(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[float, float] | None:
    if not values.size:
        return None
    return dict(zip(QUANTILES, np.quantile(values, QUANTILES).tolist(), strict=True))
