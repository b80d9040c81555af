"""Give out GPUs one step at a time where they save most. Optimus and Pollux use this search.

Each job has a cost for every number of GPUs, and the sum of costs is minimised. A job's best step goes to the larger
count with the greatest saving per GPU, so it can jump over a dent in its curve. Always taking the steepest step of all
jobs gives the smallest sum if every step fits, and nearly the smallest if the last ones do not.
"""

from __future__ import annotations

import heapq

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import array_kernel


@array_kernel
def best_step(cost: FloatArray, counts: IntArray, level: int, free: int) -> tuple[float, int]:
    """Return the greatest saving per GPU within ``free`` GPUs, and its level; (0, -1) if no level saves."""
    steepest, target = 0.0, -1
    for up in range(level + 1, len(counts)):
        width = counts[up] - counts[level]
        if width > free:
            break
        saving = (cost[level] - cost[up]) / width
        if saving > steepest:
            steepest, target = saving, up
    return steepest, target


@array_kernel
def spend(cost: FloatArray, counts: IntArray, start: IntArray, free: int) -> IntArray:
    """Take the steepest steps until no GPU is left or no step saves anything.

    Args:
        cost: ``[J, N]`` finite cost of each level, inf where the job cannot run; ``cost[j, start[j]]`` is finite.
        counts: ``[N]`` GPUs of each level, ascending; they may begin with 0.
        start: ``[J]`` levels to start from, whose GPUs are already given; -1 for a job that gets none.
        free: GPUs to give out.

    Returns:
        ``[J]`` levels, -1 unchanged. Ties go to the lower row.
    """
    level = start.copy()
    steps = [(0.0, -1, -1)]  # (-saving, row, target); this entry only gives numba the types
    steps.pop()
    for row in range(len(level)):
        if level[row] >= 0:
            saving, target = best_step(cost[row], counts, level[row], free)
            if target >= 0:
                steps.append((-saving, row, target))
    heapq.heapify(steps)
    while free > 0 and len(steps) > 0:
        _, row, target = heapq.heappop(steps)
        width = counts[target] - counts[level[row]]
        if width <= free:
            level[row] = target
            free -= width
        saving, target = best_step(cost[row], counts, level[row], free)
        if target >= 0:
            heapq.heappush(steps, (-saving, row, target))
    return level


def gpus_of(level: IntArray, counts: IntArray) -> IntArray:
    """Return the GPUs of each job's level; 0 where the level is -1."""
    return np.where(level >= 0, counts[level], 0).astype(np.int64)
