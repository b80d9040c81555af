"""Where jobs stand in the table of GPU counts: the arithmetic that all policies share.

A *level* is a position in ``View.gpu_counts``. By the contract of `CostTable` a class runs on a count at every
clock or at none, so the maximum clock tells what is feasible.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.policy.protocol import View


def step_times(view: View) -> FloatArray:
    """Seconds per iteration of each job on each count at the maximum clock, ``[J, N]``; inf where it cannot run."""
    fastest: FloatArray = view.step_time_s[:, :, view.clock_max]
    times: FloatArray = fastest[view.jobs["cost"]]
    return times


def feasible(view: View, times: FloatArray) -> BoolArray:
    """Whether a job may run on a count, ``[J, N]``: it can (finite ``times``) and its own bounds allow it."""
    jobs, counts = view.jobs, view.gpu_counts
    within = (counts >= jobs["gpus_min"][:, None]) & (counts <= jobs["gpus_max"][:, None])
    allowed: BoolArray = np.isfinite(times) & within
    return allowed


def least_levels(allowed: BoolArray) -> IntArray:
    """The level of the fewest GPUs that a job can run on, ``[J]``; -1 where there is none."""
    if not allowed.size:
        return np.full(len(allowed), -1, np.int64)
    return np.where(np.any(allowed, axis=1), np.argmax(allowed, axis=1), -1).astype(np.int64)


def requested_levels(view: View) -> IntArray:
    """The level that comes nearest to what each owner asked for, ``[J]``; -1 where the job can run on no count.

    The largest feasible count that is not above the request; where there is none (the job needs more memory
    than it asked GPUs for), the smallest feasible one above it. Work and memory are O(J + K·N), for queues are long and
    logs ask for hundreds of different counts.
    """
    jobs, levels = view.jobs, len(view.gpu_counts)
    if not levels or not len(jobs) or not len(view.step_time_s):
        return np.full(len(jobs), -1, np.int64)
    runs = np.isfinite(view.step_time_s[:, :, view.clock_max])
    # per class: the last level at or below each at which it runs (else -1), and the first at or above (else N)
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
    """GPUs that a rigid policy gives each job, ``[J]``: what its owner asked for, made feasible; 0 if nothing is."""
    level = requested_levels(view)
    return np.where(level >= 0, view.gpu_counts[level], 0).astype(np.int64)


def requested_run_s(view: View) -> FloatArray:
    """Seconds each job still has to run on the GPUs asked for, at the maximum clock, ``[J]``; inf if it cannot run."""
    level = requested_levels(view)
    run_s = view.jobs["remaining"] * view.step_time_s[view.jobs["cost"], level, view.clock_max]
    return np.where(level >= 0, run_s, np.inf)


def held_gpus(view: View) -> IntArray:
    """GPUs that running jobs keep when nobody is preempted, ``[J]``.

    That is what they hold, except where it is no longer feasible (the belief changed) or no longer there (nodes
    failed): then the jobs submitted first keep theirs.
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
    """Rows in order of submission, ties by id."""
    return np.lexsort((view.jobs["id"], view.jobs["arrival_s"])).astype(np.int64)


def by_key(view: View, key: FloatArray) -> IntArray:
    """Rows by ascending ``key``, ties by id; nan comes last."""
    return np.lexsort((view.jobs["id"], key)).astype(np.int64)


def take_what_fits(need: IntArray, order: Iterable[int] | IntArray, free: int) -> IntArray:
    """Give each row in turn all it needs if that is still free; pass over those that do not fit. ``[J]`` GPUs."""
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
    """Give each row in turn all it needs; the first that does not fit ends it (head-of-line blocking). ``[J]`` GPUs."""
    given = np.zeros(len(need), np.int64)
    wants = need.tolist()
    for row in np.asarray(order).tolist():
        if wants[row] > free:
            break
        given[row] = wants[row]
        free -= wants[row]
    return given
