"""Look up jobs in the table of GPU counts, and share out GPUs: arithmetic that all policies use.

A *level* is a position in ``View.gpu_counts``. In a `CostTable`, a class runs on a GPU count at every clock or at no
clock, so the maximum clock shows on which counts it can run. Arrays have one row per job (J) and one column per GPU
count (N).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.policy.protocol import View


def step_times(view: View) -> FloatArray:
    """Return seconds per iteration of each job (row) on each GPU count (column) at the maximum clock.

    The value is ``inf`` where a job cannot run.
    """
    fastest: FloatArray = view.step_time_s[:, :, view.clock_max]
    times: FloatArray = fastest[view.jobs["cost"]]
    return times


def feasible(view: View, times: FloatArray) -> BoolArray:
    """Return True for each job (row) and GPU count (column) if the job can run on this count.

    A job can run on a count between its smallest and largest count, if its class has a step time there.

    Args:
        view: The jobs and the GPU counts.
        times: Seconds per iteration of each job on each GPU count; ``inf`` where its class cannot run.
    """
    jobs, counts = view.jobs, view.gpu_counts
    within = (counts >= jobs["gpus_min"][:, None]) & (counts <= jobs["gpus_max"][:, None])
    allowed: BoolArray = np.isfinite(times) & within
    return allowed


def least_levels(allowed: BoolArray) -> IntArray:
    """Return for each job the position of the smallest GPU count on which it can run; -1 if it cannot run.

    Args:
        allowed: True where a job (row) can run on a GPU count (column, ascending).
    """
    if not allowed.size:
        return np.full(len(allowed), -1, np.int64)
    return np.where(np.any(allowed, axis=1), np.argmax(allowed, axis=1), -1).astype(np.int64)


def requested_levels(view: View) -> IntArray:
    """Return the position in ``View.gpu_counts`` of the count nearest to each job's request; -1 if the job cannot run.

    This is the largest GPU count on which the job can run and that is not above its request. If there is no such count
    (because the job needs more memory than the requested GPUs have), it is the smallest count on which the job can run.
    Time and memory are O(J + K·N) for J jobs of K classes and N GPU counts, because queues are long, and the jobs of
    logs request hundreds of different counts.
    """
    jobs, levels = view.jobs, len(view.gpu_counts)
    if not levels or not len(jobs) or not len(view.step_time_s):
        return np.full(len(jobs), -1, np.int64)
    runs = np.isfinite(view.step_time_s[:, :, view.clock_max])
    # per class and level: the last feasible level at or below it (else -1), and the first at or above it (else N)
    below = np.maximum.accumulate(np.where(runs, np.arange(levels), -1), axis=1)
    above = np.minimum.accumulate(np.where(runs, np.arange(levels), levels)[:, ::-1], axis=1)[:, ::-1]
    cost = jobs["cost"]
    lowest = np.searchsorted(view.gpu_counts, jobs["gpus_min"], side="left")
    highest = np.searchsorted(view.gpu_counts, jobs["gpus_max"], side="right") - 1
    asked = np.searchsorted(view.gpu_counts, np.minimum(jobs["requested"], jobs["gpus_max"]), side="right") - 1
    nearest = np.where(asked >= 0, below[cost, np.maximum(asked, 0)], -1)
    least = np.where(lowest < levels, above[cost, np.minimum(lowest, levels - 1)], levels)
    least = np.where(least <= highest, least, -1)
    return np.where(nearest >= lowest, nearest, least).astype(np.int64)


def requested_gpus(view: View) -> IntArray:
    """Return the GPU count nearest to each job's request, for jobs whose count never changes; 0: cannot run."""
    level = requested_levels(view)
    return np.where(level >= 0, view.gpu_counts[level], 0).astype(np.int64)


def requested_run_s(view: View) -> FloatArray:
    """Return each job's remaining seconds on its requested GPUs at the maximum clock; ``inf`` if it cannot run."""
    level = requested_levels(view)
    run_s = view.jobs["remaining"] * view.step_time_s[view.jobs["cost"], level, view.clock_max]
    return np.where(level >= 0, run_s, np.inf)


def held_gpus(view: View) -> IntArray:
    """Return how many GPUs each running job keeps if no job is preempted; 0 for waiting jobs.

    A job keeps its GPUs unless it is now believed that it cannot run on this GPU count. If nodes have failed, so that
    there are too few GPUs, the jobs that were submitted first keep their GPUs.
    """
    jobs = view.jobs
    held = np.zeros(len(jobs), np.int64)
    running = np.flatnonzero(jobs["gpus"])
    if not len(running):
        return held
    now = jobs["gpus"][running].astype(np.int64)
    known = now < len(view.count_index)
    level = np.where(known, view.count_index[np.where(known, now, 0)], -1)
    runs = np.isfinite(view.step_time_s[jobs["cost"][running], level, view.clock_max])
    within = (now >= jobs["gpus_min"][running]) & (now <= jobs["gpus_max"][running])
    allowed = runs & within & (level >= 0)
    held[running] = np.where(allowed, now, 0)
    if held.sum() > view.capacity:
        order = by_arrival(view)
        return take_what_fits(held, order[held[order] > 0], view.capacity)
    return held


def by_arrival(view: View) -> IntArray:
    """Return the rows of all jobs in order of submission; jobs submitted at the same time are ordered by id."""
    return np.lexsort((view.jobs["id"], view.jobs["arrival_s"])).astype(np.int64)


def by_key(view: View, key: FloatArray) -> IntArray:
    """Return the rows of all jobs by ascending ``key``, equal keys by id; jobs with the key nan come last."""
    return np.lexsort((view.jobs["id"], key)).astype(np.int64)


def take_what_fits(need: IntArray, order: Iterable[int] | IntArray, free: int) -> IntArray:
    """Give jobs, one after the other, the GPUs that they need; a job for which too few GPUs are left is skipped.

    Args:
        need: GPUs that each job needs.
        order: Rows of the jobs, first to last.
        free: How many GPUs to give out.

    Returns:
        How many GPUs each job gets: all that it needs, or 0.
    """
    given = np.zeros(len(need), np.int64)
    wants = need.tolist()
    for row in np.asarray(order).tolist():
        if free <= 0:
            break
        if wants[row] <= free:
            given[row] = wants[row]
            free -= wants[row]
    return given


def take_until_blocked(need: IntArray, order: Iterable[int] | IntArray, free: int) -> IntArray:
    """Give jobs, one after the other, the GPUs that they need, until too few GPUs are left for the next job.

    Args:
        need: GPUs that each job needs.
        order: Rows of the jobs, first to last.
        free: How many GPUs to give out.

    Returns:
        How many GPUs each job gets: all that it needs, or 0.
    """
    given = np.zeros(len(need), np.int64)
    wants = need.tolist()
    for row in np.asarray(order).tolist():
        if wants[row] > free:
            break
        given[row] = wants[row]
        free -= wants[row]
    return given


def start_in_order(view: View, need: IntArray, order: IntArray) -> IntArray:
    """Let running jobs keep their GPUs, and start waiting jobs in order until too few GPUs are left for the next job.

    A job that needs more GPUs than are up is skipped.

    Args:
        view: All jobs.
        need: GPUs that each job needs.
        order: Rows of the jobs, first to last.

    Returns:
        How many GPUs each job gets.
    """
    held = held_gpus(view)
    queue = order[(held[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
    return held + take_until_blocked(need, queue, view.capacity - int(np.sum(held)))
