"""Give out GPUs step by step, each time where they save most. The policies Optimus and Pollux use this search.

Each job has a cost for every GPU count, and the search makes the sum of all costs small. The best step of a job goes to
the larger GPU count with the greatest saving per added GPU. So a step can skip counts at which the job saves little.
The search always takes the step of the job that saves most per added GPU. The sum is then the smallest one if every
step fits on the free GPUs, and nearly the smallest one if the last steps do not fit.
"""

from __future__ import annotations

import heapq

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import array_kernel


@array_kernel
def best_step(cost: FloatArray, counts: IntArray, level: int, free: int) -> tuple[float, int]:
    """Return the greatest saving per added GPU of one job, and the position of the GPU count with this saving.

    The result is (0, -1) if no larger count saves anything within the free GPUs.

    Args:
        cost: Cost of the job at each GPU count.
        counts: The GPU counts, ascending.
        level: Position of the job's present GPU count.
        free: How many GPUs are free.
    """
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
    """Give out GPUs step by step, each time to the job that saves most per added GPU, until no GPU or saving is left.

    Of two steps with the same saving, the job with the lower row comes first.

    Args:
        cost: ``[J, N]`` cost of each of J jobs at each of N GPU counts; ``inf`` where a job cannot run. It must be
            finite at ``start``.
        counts: ``[N]`` GPU counts, ascending; the first count may be 0.
        start: ``[J]`` position of each job's GPU count before; -1 for a job that shall get no GPUs.
        free: How many GPUs to give out in addition.

    Returns:
        ``[J]`` position of each job's new GPU count; -1 where ``start`` is -1.
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
    """Return the GPU count of each job from its position (``level``) in ``counts``; 0 where the position is -1."""
    return np.where(level >= 0, counts[level], 0).astype(np.int64)
