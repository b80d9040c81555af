"""Shorten long time series for drawing, without changing their sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.simulate.result import JobResults, Segments

#: Points of one line over time: about as many as a screen has columns, few enough for a small page.
MOST_POINTS = 1200

#: Rows and columns of the figure of allocations.
MOST_JOBS = 160
MOST_MOMENTS = 480


def step_means(
    time_s: FloatArray, value: FloatArray, end_s: float, weight: FloatArray | None = None, points: int = MOST_POINTS
) -> tuple[FloatArray, FloatArray]:
    """Reduce a piecewise constant series to at most ``points`` equal intervals, each with its mean value.

    The integral over the whole time does not change: watts still add up to the same joules.

    Args:
        time_s: ``[M]`` time from which each value holds, seconds, ascending.
        value: ``[M]`` values.
        end_s: Time until which the last value holds, seconds.
        weight: ``[M]`` weights in the mean (for a mean clock, the numbers of used GPUs). Where all weights are 0, the
            mean is nan.
        points: Largest number of steps. A shorter series is returned unchanged.

    Returns:
        The start of each step, and its value.
    """
    if len(time_s) <= points:
        return time_s, value if weight is None else np.where(weight > 0, value, np.nan)
    edges = np.linspace(time_s[0], end_s, points + 1)
    weights = np.ones(len(value)) if weight is None else weight.astype(np.float64)
    over = _integral_at(edges, time_s, np.where(weights > 0, value, 0.0) * weights, end_s)
    under = _integral_at(edges, time_s, weights, end_s)
    parts = np.diff(under)
    means = np.full(points, np.nan)
    np.divide(np.diff(over), parts, out=means, where=parts > 1e-12 * max(float(under[-1]), 1.0))
    return edges[:-1], means


def _integral_at(moments: FloatArray, time_s: FloatArray, value: FloatArray, end_s: float) -> FloatArray:
    """Return the integral of a step function over time, from its start to each of ``moments``.

    The result is exact, because the value is constant in each step.
    """
    knots = np.append(time_s, end_s)
    sums = np.append(0.0, np.cumsum(value * np.diff(knots)))
    at: FloatArray = np.interp(moments, knots, sums)
    return at


def cumulative(value: FloatArray, points: int = 400) -> tuple[FloatArray, FloatArray]:
    """Return the distribution of the finite values: at most ``points`` of them, and the share of values up to each."""
    ordered = np.sort(value[np.isfinite(value)])
    if len(ordered) <= points:
        return ordered, np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    share = np.linspace(1 / len(ordered), 1.0, points)
    return ordered[np.ceil(share * len(ordered) - 1e-9).astype(np.int64) - 1], share


def worth_showing_s(runs: Sequence[tuple[JobResults, float]]) -> float:
    """Return the time in seconds at which a time axis for several simulations should end.

    This is the end of the last simulation. If a few jobs last much longer than all others, it is instead shortly after
    98 % of the jobs are done.

    Args:
        runs: For each simulation its jobs, and the time at which it ended.
    """
    last_s = max((end_s for _, end_s in runs), default=0.0)
    ends = [jobs.finish_s[np.isfinite(jobs.finish_s)] for jobs, _ in runs]
    most_s = 1.1 * max((float(np.quantile(end, 0.98)) for end in ends if len(end)), default=last_s)
    return max(most_s if most_s < 0.7 * last_s else last_s, 1.0)


def allocation_raster(
    jobs: JobResults, segments: Segments, end_s: float, rows: int = MOST_JOBS, columns: int = MOST_MOMENTS
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return the allocations of jobs as an image: one row per job, one column per interval of time.

    The image shows at most ``rows`` jobs, evenly spaced in order of submission. A column shows the last allocation that
    overlaps its interval, so that short jobs stay visible.

    Returns:
        ``[R]`` positions of the R shown jobs; ``[C]`` middle of each of C columns in seconds; ``[R, C]`` GPUs that each
        job holds: 0 while the job waits, nan before its submission and after its end.
    """
    total = len(jobs.ids)
    shown = np.unique(np.linspace(0, total - 1, min(rows, total)).round().astype(np.int64)) if total else np.arange(0)
    row_of = np.full(total, -1)
    row_of[shown] = np.arange(len(shown))
    width = max(end_s, 1e-9) / columns
    held = np.full((len(shown), columns), np.nan)

    def columns_of(start_s: float, finish_s: float) -> slice:
        first = min(int(start_s / width), columns - 1)
        return slice(first, max(min(int(np.ceil(finish_s / width)), columns), first + 1))

    for row, job in enumerate(shown):
        if jobs.submit_s[job] >= end_s:
            continue
        finish_s = jobs.finish_s[job]
        held[row, columns_of(jobs.submit_s[job], finish_s if np.isfinite(finish_s) else end_s)] = 0.0
    here = (segments.end_s > segments.start_s) & (segments.start_s < end_s)
    mine = np.flatnonzero(here & (row_of[segments.job] >= 0)) if total else shown
    for index in mine[np.argsort(segments.start_s[mine], kind="stable")]:
        where = columns_of(segments.start_s[index], segments.end_s[index])
        held[row_of[segments.job[index]], where] = segments.gpus[index]
    middle_s = (np.arange(columns, dtype=np.float64) + 0.5) * width
    return shown, middle_s, held
