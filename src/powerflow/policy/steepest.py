"""Spending GPUs one step at a time where they save most: the search that Optimus and Pollux share.

Each job has a cost for every number of GPUs; the sum of costs is to be small while the GPUs last. From where it stands
a job's best step is the larger count with the greatest saving per GPU, so that a dent in its curve is jumped over.
Taking the steepest step of all jobs again and again gives the smallest sum if every step taken fits; if the last ones
do not, it comes close.
"""

from __future__ import annotations

import heapq

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import array_kernel


@array_kernel
def best_step(cost: FloatArray, counts: IntArray, level: int, free: int) -> tuple[float, int]:
    """Greatest saving per GPU among the larger levels within ``free`` GPUs, and that level; (0, -1) if none saves."""
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
        cost: ``[J, N]`` finite cost of each level, inf where the job cannot be; ``cost[j, start[j]]`` is finite.
        counts: ``[N]`` GPUs of each level, ascending; they may begin with 0.
        start: ``[J]`` levels to start from, already paid for; -1 for a job that takes no part.
        free: GPUs to spend.

    Returns:
        ``[J]`` levels, -1 kept. Ties go to the lower row.
    """
    level = start.copy()
    steps = [(0.0, -1, -1)]  # (-saving, row, target); the first entry only tells numba the types
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
    """GPUs of each job's level, ``[J]``; 0 where the level is -1."""
    return np.where(level >= 0, counts[level], 0).astype(np.int64)
