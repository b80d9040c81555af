"""Look up jobs in the table of GPU counts, and share out GPUs: arithmetic that all policies use.

A *level* is a position in ``View.gpu_counts``. In a `CostTable`, a class runs on a GPU count at every clock or at no
clock, so the maximum clock shows on which counts it can run. Arrays have one row per job (J) and one column per GPU
count (N).
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.kernel import kernel
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
    """
    jobs = view.jobs
    levels = np.empty(len(jobs), np.int64)
    _find_requested(
        jobs["requested"],
        jobs["gpus_min"],
        jobs["gpus_max"],
        jobs["cost"],
        view.gpu_counts,
        view.step_time_s,
        levels,
    )
    return levels


@kernel
def _find_requested(
    requested: IntArray,
    gpus_min: IntArray,
    gpus_max: IntArray,
    cost: IntArray,
    gpu_counts: IntArray,
    step_time_s: FloatArray,
    levels: IntArray,
) -> None:
    """Write the level of each job's request (`requested_levels`) to ``levels``, ``[J]``; -1: the job cannot run.

    This looks at few of the N counts per job, because queues are long, and the jobs of logs request hundreds of
    different counts. The arguments are ``[J]`` columns of `JOB`, then arrays of `View`.
    """
    for j in range(len(requested)):
        runs = step_time_s[cost[j], :, -1]
        lowest = np.searchsorted(gpu_counts, gpus_min[j])
        level = np.searchsorted(gpu_counts, min(requested[j], gpus_max[j]), side="right") - 1
        while level >= lowest and not np.isfinite(runs[level]):
            level -= 1
        if level < lowest:
            level = lowest
            while level < len(gpu_counts) and not np.isfinite(runs[level]):
                level += 1
            if level == len(gpu_counts) or gpu_counts[level] > gpus_max[j]:
                level = -1
        levels[j] = level


def requested_gpus(view: View) -> IntArray:
    """Return the GPU count nearest to each job's request, for jobs whose count never changes; 0: cannot run."""
    level = requested_levels(view)
    gpus = np.empty(len(level), np.int64)
    _count_gpus(level, view.gpu_counts, gpus)
    return gpus


@kernel
def _count_gpus(levels: IntArray, gpu_counts: IntArray, gpus: IntArray) -> None:
    """Write the GPU count of each job's level to ``gpus``, ``[J]``; 0 for a level below 0."""
    for j in range(len(levels)):
        gpus[j] = gpu_counts[levels[j]] if levels[j] >= 0 else 0


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
    total = _find_held(
        jobs["gpus"], jobs["gpus_min"], jobs["gpus_max"], jobs["cost"], view.count_index, view.step_time_s, held
    )
    if total > view.capacity:
        order = by_arrival(view)
        return take_what_fits(held, order[held[order] > 0], view.capacity)
    return held


@kernel
def _find_held(
    gpus: IntArray,
    gpus_min: IntArray,
    gpus_max: IntArray,
    cost: IntArray,
    count_index: IntArray,
    step_time_s: FloatArray,
    held: IntArray,
) -> int:
    """Write to ``held``, ``[J]``, the GPUs of each job that can run on them (zeros before); return the sum.

    The arguments are ``[J]`` columns of `JOB`, then arrays of `View`.
    """
    total = 0
    for j in range(len(gpus)):
        n = gpus[j]
        if n == 0 or n >= len(count_index) or n < gpus_min[j] or n > gpus_max[j]:
            continue
        level = count_index[n]
        if level >= 0 and np.isfinite(step_time_s[cost[j], level, -1]):
            held[j] = n
            total += n
    return total


def by_arrival(view: View) -> IntArray:
    """Return the rows of all jobs in order of submission; jobs submitted at the same time are ordered by id."""
    order = np.empty(len(view.jobs), np.int64)
    if not _number_rows(view.jobs["arrival_s"], view.jobs["id"], order):
        return np.lexsort((view.jobs["id"], view.jobs["arrival_s"])).astype(np.int64)
    return order


@kernel
def _number_rows(arrival_s: FloatArray, ids: IntArray, order: IntArray) -> bool:
    """Write 0, 1, 2, … to ``order``, and return True; return False if the rows are not in order of submission."""
    for j in range(len(ids)):
        later = j == 0 or arrival_s[j] > arrival_s[j - 1] or (arrival_s[j] == arrival_s[j - 1] and ids[j] > ids[j - 1])
        if not later:
            return False
        order[j] = j
    return True


def by_key(view: View, key: FloatArray) -> IntArray:
    """Return the rows of all jobs by ascending ``key``, equal keys by id; jobs with the key nan come last."""
    return np.lexsort((view.jobs["id"], key)).astype(np.int64)


def take_what_fits(need: IntArray, order: IntArray, free: int) -> IntArray:
    """Give jobs, one after the other, the GPUs that they need; a job for which too few GPUs are left is skipped.

    Args:
        need: GPUs that each job needs.
        order: Rows of the jobs, first to last.
        free: How many GPUs to give out.

    Returns:
        How many GPUs each job gets: all that it needs, or 0.
    """
    given = np.zeros(len(need), np.int64)
    _take(need, order, free, False, given)
    return given


def take_until_blocked(need: IntArray, order: IntArray, free: int) -> IntArray:
    """Give jobs, one after the other, the GPUs that they need, until too few GPUs are left for the next job.

    Args:
        need: GPUs that each job needs.
        order: Rows of the jobs, first to last.
        free: How many GPUs to give out.

    Returns:
        How many GPUs each job gets: all that it needs, or 0.
    """
    given = np.zeros(len(need), np.int64)
    _take(need, order, free, True, given)
    return given


@kernel
def _take(need: IntArray, order: IntArray, free: int, until_blocked: bool, given: IntArray) -> None:
    """Write to ``given``, ``[J]``, what each job gets (`take_what_fits`, `take_until_blocked`); zeros before."""
    for row in order:
        if need[row] <= free:
            given[row] = need[row]
            free -= need[row]
        elif until_blocked or free <= 0:
            break


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
    given = held_gpus(view)
    _start(need, order, view.capacity, given)
    return given


@kernel
def _start(need: IntArray, order: IntArray, capacity: int, given: IntArray) -> None:
    """Add to ``given``, ``[J]``, what running jobs keep, the GPUs of the jobs that start (`start_in_order`)."""
    free = capacity
    for j in range(len(given)):
        free -= given[j]
    for row in order:
        if given[row] > 0 or need[row] <= 0 or need[row] > capacity:
            continue
        if need[row] > free:
            break
        given[row] = need[row]
        free -= need[row]
