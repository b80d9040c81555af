"""Look up jobs in the table of GPU counts, and share out GPUs: arithmetic that all policies use.

A *level* is a position in ``View.gpu_counts``. In a `CostTable` a class runs on a count at every clock or at none, so
the maximum clock shows which counts are feasible. Arrays have one row per job (J) and one column per count (N).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.policy.protocol import View


def step_times(view: View) -> FloatArray:
    """Return seconds per iteration of each job on each GPU count at the maximum clock; inf if it cannot run."""
    fastest: FloatArray = view.step_time_s[:, :, view.clock_max]
    times: FloatArray = fastest[view.jobs["cost"]]
    return times


def feasible(view: View, times: FloatArray) -> BoolArray:
    """Return a mask of jobs by GPU counts: True if the job can run there (finite ``times``) within its own bounds."""
    jobs, counts = view.jobs, view.gpu_counts
    within = (counts >= jobs["gpus_min"][:, None]) & (counts <= jobs["gpus_max"][:, None])
    allowed: BoolArray = np.isfinite(times) & within
    return allowed


def least_levels(allowed: BoolArray) -> IntArray:
    """Return, for each job, the level of the fewest GPUs that it can run on; -1 if there is none."""
    if not allowed.size:
        return np.full(len(allowed), -1, np.int64)
    return np.where(np.any(allowed, axis=1), np.argmax(allowed, axis=1), -1).astype(np.int64)


def requested_levels(view: View) -> IntArray:
    """Return, for each job, the level nearest to its requested GPUs; -1 if it can run on no count.

    This is the largest feasible count not above the request, or else the smallest feasible one above it (if the job
    needs more memory than the requested GPUs have). Time and memory are O(J + K·N) for J jobs of K cost classes and N
    counts, because queues are long and logs request hundreds of different counts.
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
    """Return the GPUs that a rigid policy gives each job: the request, made feasible; 0 if it is not."""
    level = requested_levels(view)
    return np.where(level >= 0, view.gpu_counts[level], 0).astype(np.int64)


def requested_run_s(view: View) -> FloatArray:
    """Return each job's remaining seconds on its requested GPUs at the maximum clock; inf if it cannot run."""
    level = requested_levels(view)
    run_s = view.jobs["remaining"] * view.step_time_s[view.jobs["cost"], level, view.clock_max]
    return np.where(level >= 0, run_s, np.inf)


def held_gpus(view: View) -> IntArray:
    """Return the GPUs that each running job keeps without preemption; 0 for waiting jobs.

    A job keeps its GPUs unless the count is no longer feasible (its cost estimate changed). If nodes failed and the
    GPUs are too few, the jobs submitted first keep theirs.
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
    """Return the rows in order of submission, ties by id."""
    return np.lexsort((view.jobs["id"], view.jobs["arrival_s"])).astype(np.int64)


def by_key(view: View, key: FloatArray) -> IntArray:
    """Return the rows by ascending ``key``, ties by id; nan comes last."""
    return np.lexsort((view.jobs["id"], key)).astype(np.int64)


def take_what_fits(need: IntArray, order: Iterable[int] | IntArray, free: int) -> IntArray:
    """Give each row in turn all the GPUs it needs, skipping rows that do not fit; return the GPUs of each row."""
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
    """Give each row in turn all the GPUs it needs, until one does not fit; return the GPUs of each row."""
    given = np.zeros(len(need), np.int64)
    wants = need.tolist()
    for row in np.asarray(order).tolist():
        if wants[row] > free:
            break
        given[row] = wants[row]
        free -= wants[row]
    return given


def start_in_order(view: View, need: IntArray, order: IntArray) -> IntArray:
    """Keep running jobs and start waiting ones in ``order``, until one does not fit; return the GPUs of each job.

    A job that needs more GPUs than are up is skipped.
    """
    held = held_gpus(view)
    queue = order[(held[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
    return held + take_until_blocked(need, queue, view.capacity - int(np.sum(held)))
