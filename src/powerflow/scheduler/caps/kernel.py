"""Compute in compiled code how many watts each job could save for a power cap, and how much worth a watt would lose."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.kernel import kernel


@kernel
def draw(watts: float, n: int, idle_w: float, outside: int) -> float:
    """Return the watts above idle that a job adds on the nodes of a power cap.

    Args:
        watts: Watts of all GPUs of the job, including idle draw.
        n: GPU count of the job, ≥ 1.
        idle_w: Watts of one idle GPU.
        outside: How many GPUs the job has on other nodes. With fewer GPUs, the job would keep these GPUs.
    """
    inside = max(0, n - outside)
    return max(0.0, watts - n * idle_w) * inside / n


@kernel
def current(
    cost: IntArray,
    level: IntArray,
    clock: IntArray,
    outside: IntArray,
    gpu_counts: IntArray,
    watts: FloatArray,
    idle_w: float,
    drawn: FloatArray,
    floor: FloatArray,
    floor_clock: IntArray,
) -> None:
    """Compute the watts that each job adds at its clock, and the fewest watts that it could add at a lower clock.

    All these watts are above idle, on the nodes of a power cap.

    Args:
        cost: ``[J]`` row of each of J jobs in ``watts``.
        level: ``[J]`` position of its GPU count in ``gpu_counts``; -1 if it holds no GPU. Its results are then 0.
        clock: ``[J]`` position of its clock.
        outside: ``[J]`` how many GPUs it has outside the nodes of the cap.
        gpu_counts: ``[N]`` GPU counts of the cost tables.
        watts: ``[K, N, F]`` (classes × GPU counts × clocks) watts of all GPUs of a job, including idle draw.
        idle_w: Watts of one idle GPU.
        drawn: ``[J]`` result: watts at its clock.
        floor: ``[J]`` result: fewest watts at its clock or a lower clock.
        floor_clock: ``[J]`` result: position of the clock with the fewest watts.
    """
    for j in range(len(cost)):
        drawn[j] = floor[j] = 0.0
        floor_clock[j] = clock[j]
        i = level[j]
        if i < 0:
            continue
        n = gpu_counts[i]
        drawn[j] = floor[j] = draw(watts[cost[j], i, clock[j]], n, idle_w, outside[j])
        for f in range(clock[j] - 1, -1, -1):
            w = draw(watts[cost[j], i, f], n, idle_w, outside[j])
            if w < floor[j]:
                floor[j] = w
                floor_clock[j] = f


@kernel
def slower(
    cost: IntArray,
    level: IntArray,
    clock: IntArray,
    outside: IntArray,
    worth: FloatArray,
    gpu_counts: IntArray,
    step_time_s: FloatArray,
    watts: FloatArray,
    idle_w: float,
    energy_price: FloatArray,
    job: IntArray,
    target: IntArray,
    saved: FloatArray,
    slope: FloatArray,
) -> int:
    """List the ways to save watts by lower clocks.

    Each way lowers the clock of one job by a step. The steps of a job lead through the clocks that lie on the concave
    hull of worth over watts: no other clock saves as many watts for as little worth. See `current` for the arguments
    that are not listed here. J is the number of jobs, and ``[K, N, F]`` is classes × GPU counts × clocks.

    Args:
        worth: ``[J]`` worth of one iteration of each job.
        step_time_s: ``[K, N, F]`` seconds per iteration.
        energy_price: ``[J]`` energy price λ_E of each job, seconds per joule.
        job, target: ``[≥ J·F]`` results for each way: the row of the job, and the position of its new clock.
        saved, slope: ``[≥ J·F]`` results for each way: watts saved compared with the clock before, and worth lost per
            watt saved.

    Returns:
        The number of ways. The ways of one job follow each other, with rising ``slope``.
    """
    ways = 0
    for j in range(len(cost)):
        i = level[j]
        if i < 0:
            continue
        # believed watts need not fall with the clock: any lower clock may be the next corner
        k, n, at = cost[j], gpu_counts[level[j]], clock[j]
        at_w = draw(watts[k, i, at], n, idle_w, outside[j])
        dearest = -np.inf
        while at_w > 0.0:
            best, best_slope, best_w = -1, np.inf, 0.0
            at_u = worth[j] / step_time_s[k, i, at] - energy_price[j] * at_w
            for f in range(clock[j] - 1, -1, -1):
                w = draw(watts[k, i, f], n, idle_w, outside[j])
                if w >= at_w or step_time_s[k, i, f] == np.inf:
                    continue
                lost = (at_u - worth[j] / step_time_s[k, i, f] + energy_price[j] * w) / (at_w - w)
                if lost < best_slope:  # of corners on one line the nearest: finer steps
                    best, best_slope, best_w = f, lost, w
            if best < 0:
                break
            dearest = max(dearest, best_slope)  # slopes of one job must not fall, not even by rounding
            job[ways], target[ways], saved[ways], slope[ways] = j, best, at_w - best_w, dearest
            ways += 1
            at, at_w = best, best_w
    return ways


@kernel
def fewer(
    cost: IntArray,
    level: IntArray,
    clock: IntArray,
    outside: IntArray,
    worth: FloatArray,
    gpus_min: IntArray,
    listed: BoolArray,
    gpu_counts: IntArray,
    step_time_s: FloatArray,
    watts: FloatArray,
    idle_w: float,
    energy_price: FloatArray,
    floor: FloatArray,
    job: IntArray,
    target: IntArray,
    saved: FloatArray,
    slope: FloatArray,
) -> int:
    """List the ways to save watts by fewer GPUs for a job, each at the clock with the fewest watts.

    The new GPU counts are powers of two, because these fill nodes without gaps. If the owner of a job listed its GPU
    counts, the listed counts are used. See `slower` for the result and for the arguments that are not listed here. In
    this function ``target`` is the position of the new GPU count in ``gpu_counts``.

    Args:
        floor: ``[J]`` fewest watts that each of J jobs adds on its present GPU count.
        gpus_min: ``[J]`` smallest GPU count of each job.
        listed: ``[J]`` True if the owner listed the GPU counts that the job may have.
    """
    ways = 0
    for j in range(len(cost)):
        i = level[j]
        if i < 0:
            continue
        k, at, at_w = cost[j], level[j], floor[j]
        at_u = dearest = -np.inf
        while at_w > 0.0:
            best, best_slope, best_w, best_u = -1, np.inf, 0.0, 0.0
            for m in range(at, -1, -1):
                n = gpu_counts[m]
                if n < gpus_min[j] or (n & (n - 1) and m != at and not listed[j]) or (m == at and at_u > -np.inf):
                    continue
                # the clock with the fewest watts
                low_w, low_f = np.inf, -1
                for f in range(clock[j], -1, -1):
                    if step_time_s[k, m, f] < np.inf:
                        w = draw(watts[k, m, f], n, idle_w, outside[j])
                        if w < low_w:
                            low_w, low_f = w, f
                if low_f < 0:
                    continue
                u = worth[j] / step_time_s[k, m, low_f] - energy_price[j] * low_w
                if m == at:  # the present count
                    at_u = u
                    continue
                if low_w >= at_w:
                    continue
                lost = (at_u - u) / (at_w - low_w)
                if lost < best_slope:  # of corners on one line the nearest: finer steps
                    best, best_slope, best_w, best_u = m, lost, low_w, u
            if best < 0:
                break
            dearest = max(dearest, best_slope)
            job[ways], target[ways], saved[ways], slope[ways] = j, best, at_w - best_w, dearest
            ways += 1
            at, at_w, at_u = best, best_w, best_u
    return ways


@kernel
def take(
    order: IntArray, job: IntArray, target: IntArray, saved: FloatArray, need_w: float, chosen: IntArray, top: IntArray
) -> tuple[int, float]:
    """Take ways to save watts, cheapest first, until enough is saved; then undo ways that are not needed.

    Ways are undone from the dearest to the cheapest, as long as enough watts stay saved.

    Args:
        order: ``[W]`` positions of the W ways, cheapest first. The ways of one job stand in the order in which they
            were listed.
        job, target, saved: ``[W]`` the job, its new position (of a clock or GPU count), and the watts saved, as
            `slower` and `fewer` list them.
        need_w: Watts to save.
        chosen: ``[J]`` present position of each of J jobs (of its clock or GPU count); changed to the new position.
        top: ``[J]`` working memory.

    Returns:
        The position in ``order`` of the last way that was taken (-1 if no way was taken), and the watts that are still
        to save (≤ 0 if enough is saved).
    """
    left = need_w
    last = -1
    for at in range(len(order)):
        if left <= 0.0:
            break
        left -= saved[order[at]]
        last = at
    top[:] = -1
    for at in range(last, -1, -1):
        way = order[at]
        if top[job[way]] < 0:  # the last way of its job: only this one can be given back
            if left + saved[way] <= 0.0:
                left += saved[way]
                continue
            top[job[way]] = way
            chosen[job[way]] = target[way]
    return last, left
