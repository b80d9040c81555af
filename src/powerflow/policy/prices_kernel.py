"""The compiled heart of `prices`: one pass that values every job at every GPU count, one that sells the GPUs."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace

import numpy as np
from numba import njit

from powerflow.cost.table import FloatArray, IntArray


@njit(cache=True)
def ranks(size: FloatArray, weight: FloatArray) -> FloatArray:
    """For each job, the summed weight of the jobs that are at least as large; ``[J]``."""
    order = np.argsort(size)
    rank = np.empty(len(size))
    at_least = 0.0
    last = len(size) - 1
    while last >= 0:
        # jobs of equal size share the rank of their whole group
        first = last
        while first >= 0 and size[order[first]] == size[order[last]]:
            at_least += weight[order[first]]
            first -= 1
        for i in range(first + 1, last + 1):
            rank[order[i]] = at_least
        last = first
    return rank


@njit(cache=True, error_model="numpy")
def value_counts(
    rank: FloatArray,
    remaining: FloatArray,
    weight: FloatArray,
    pause_s: FloatArray,
    gpus: IntArray,
    gpus_min: IntArray,
    gpus_max: IntArray,
    cost: IntArray,
    gpu_counts: IntArray,
    offered: IntArray,
    step_time_s: FloatArray,
    power_w: FloatArray,
    idle_w: float,
    capacity: int,
    energy_price: float,
    crowding: float,
    sizes_known: bool,
    value: FloatArray,
    clock: IntArray,
    worth: FloatArray,
) -> None:
    """Steps 2 to 4 of design §5: what each job is worth at each offered count, and at which clock.

    Writes ``worth[J]`` (v_j), ``value[J, N]`` (V_j(n), ``-inf`` where a count is not to be had) and
    ``clock[J, N]``.
    """
    clocks = step_time_s.shape[2]
    for j in range(len(rank)):
        row = cost[j]
        price = crowding * rank[j] / capacity
        weight_j = weight[j]
        best = np.inf
        for i in offered:
            n = gpu_counts[i]
            if n < gpus_min[j] or n > gpus_max[j]:
                continue
            for f in range(clocks):
                step = step_time_s[row, i, f]
                if step == np.inf:
                    continue
                added = power_w[row, i, f] - n * idle_w
                total = step * (weight_j + energy_price * added + price * n)
                if total < best:  # noqa: PLR1730 - twice as fast as min() here
                    best = total
        worth[j] = best if best < np.inf else 0.0

        hold = max(600.0, 10.0 * pause_s[j])
        for i in range(len(gpu_counts)):
            value[j, i] = -np.inf
        for i in offered:
            n = gpu_counts[i]
            if n < gpus_min[j] or n > gpus_max[j]:
                continue
            same = n == gpus[j]
            for f in range(clocks):
                step = step_time_s[row, i, f]
                if step == np.inf:
                    continue
                speed = 1.0 / step
                gain = worth[j] * speed - energy_price * (power_w[row, i, f] - n * idle_w)
                if not same:
                    # the pause is paid once per stretch: the longer the stretch, the less it weighs
                    per_s = 1.0 / hold
                    if sizes_known:
                        per_s = max(per_s, speed / remaining[j])
                    gain /= 1.0 + pause_s[j] * per_s
                if gain > value[j, i]:
                    value[j, i] = gain
                    clock[j, i] = f


@njit(cache=True)
def _next_on_hull(value: FloatArray, gpu_counts: IntArray, at: int) -> tuple[int, float]:
    """The next corner of the upper concave hull after level ``at`` (-1: no GPU), and the slope to it."""
    base_n = 0 if at < 0 else gpu_counts[at]
    base_v = 0.0 if at < 0 else value[at]
    best = -1
    best_slope = 0.0
    for i in range(at + 1, len(gpu_counts)):
        if value[i] == -np.inf:
            continue
        slope = (value[i] - base_v) / (gpu_counts[i] - base_n)
        # ≥ takes the farther of two corners on one line: fewer segments, same hull
        if slope > 0.0 and slope >= best_slope:
            best_slope = slope
            best = i
    return best, best_slope


@njit(cache=True)
def sell(value: FloatArray, gpu_counts: IntArray, capacity: int, level: IntArray) -> float:
    """Step 5 of design §5: take hull segments of all jobs, steepest first, while they fit.

    Args:
        value: ``[J, N]`` V_j(n).
        gpu_counts: ``[N]``.
        capacity: GPUs to sell.
        level: ``[J]`` out: position in ``gpu_counts`` that each job gets, -1 for none.

    Returns:
        The slope of the last segment taken while GPUs were short: the spot price of a GPU; 0 if some are left over.
    """
    jobs = value.shape[0]
    corner = np.empty(jobs, np.int64)
    heap = [(0.0, 0) for _ in range(0)]
    for j in range(jobs):
        level[j] = -1
        corner[j], slope = _next_on_hull(value[j], gpu_counts, -1)
        if corner[j] >= 0:
            heap.append((-slope, j))
    heapify(heap)
    free = capacity
    spot = 0.0
    while len(heap) > 0 and free > 0:
        negative, j = heap[0]
        held = 0 if level[j] < 0 else gpu_counts[level[j]]
        extra = gpu_counts[corner[j]] - held
        if extra <= free:
            level[j] = corner[j]
            free -= extra
            spot = -negative
            corner[j], slope = _next_on_hull(value[j], gpu_counts, level[j])
            if corner[j] >= 0:
                heapreplace(heap, (-slope, j))
            else:
                heappop(heap)
            continue
        # It does not fit: the largest smaller level that does and is worth more; then this job is closed.
        heappop(heap)
        now = 0.0 if level[j] < 0 else value[j, level[j]]
        for i in range(corner[j] - 1, level[j], -1):
            if gpu_counts[i] - held <= free and value[j, i] > now:
                free -= gpu_counts[i] - held
                level[j] = i
                spot = (value[j, i] - now) / (gpu_counts[i] - held)
                break
    return spot if free == 0 else 0.0
