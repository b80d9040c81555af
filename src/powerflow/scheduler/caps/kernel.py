"""The compiled heart of a power cap: what every job could give up, in watts, and what each watt would cost it."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.kernel import kernel


@kernel
def draw(watts: float, n: int, idle_w: float, outside: int) -> float:
    """Watts that a job adds to a scope by using n GPUs, of which up to ``outside`` stand elsewhere.

    Args:
        watts: Of all n GPUs, idle draw included.
        n: GPUs, ≥ 1.
        idle_w: Watts of one idle GPU: they are drawn anyway.
        outside: GPUs that it has outside the scope; it would keep those longest.
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
    """What each job adds at its clock, and the least it could add on as many GPUs; 0 where it holds none.

    Args:
        cost: ``[J]`` rows of ``watts``.
        level: ``[J]`` positions in ``gpu_counts``; -1: no GPU.
        clock: ``[J]`` positions of clocks.
        outside: ``[J]`` GPUs outside the scope.
        gpu_counts: ``[N]``.
        watts: ``[K, N, F]`` of all n GPUs, idle draw included.
        idle_w: Watts of one idle GPU.
        drawn, floor: ``[J]`` out, watts.
        floor_clock: ``[J]`` out: the clock at which it adds least.
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
    """Ways to slow jobs down: of each job the corners of the concave hull of worth over watts, from its clock down.

    Args:
        worth: ``[J]`` of one iteration.
        step_time_s: ``[K, N, F]``.
        energy_price: ``[J]`` λ_E of each job, s/J.
        job, target: Out, ``[≥ J·F]``: which job, to which clock.
        saved, slope: Out: watts saved over the corner before, and worth lost per watt.

    Returns:
        How many ways; those of one job follow each other, dearer and dearer.
    """
    ways = 0
    for j in range(len(cost)):
        i = level[j]
        if i < 0:
            continue
        # watts as believed need not fall with the clock: any lower clock may be the next
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
            dearest = max(dearest, best_slope)  # rounding must not put a job's ways out of order
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
    """Ways to run jobs on fewer GPUs, each at its thriftiest clock.

    Powers of two, since buddy allocation then wastes nothing; any count that a job's owner has listed.

    Arguments as of `slower`; ``target`` is a position in ``gpu_counts``.

    Args:
        floor: ``[J]`` the least that each job adds on the GPUs it has.
        gpus_min: ``[J]`` fewest GPUs of each job.
        listed: ``[J]`` whether its owner lists the counts it may have.
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
                # the thriftiest clock of this count
                low_w, low_f = np.inf, -1
                for f in range(clock[j], -1, -1):
                    if step_time_s[k, m, f] < np.inf:
                        w = draw(watts[k, m, f], n, idle_w, outside[j])
                        if w < low_w:
                            low_w, low_f = w, f
                if low_f < 0:
                    continue
                u = worth[j] / step_time_s[k, m, low_f] - energy_price[j] * low_w
                if m == at:  # where it starts from
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
    """Take ways in this order until so many watts are saved, then give back what was too much.

    The ways of one job must follow each other in ``order``. Of each job only its last way may be given back; the
    dearest is asked first.

    Args:
        order: ``[W]`` positions of ways, cheapest first.
        job, target, saved: ``[W]`` as from `slower` and `fewer`.
        need_w: Watts to save.
        chosen: ``[J]`` in: where each job is; out: where it is to be.
        top: ``[J]`` to work in.

    Returns:
        Position in ``order`` of the last way taken (-1: none), and the watts that are still to be saved (≤ 0: none).
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
        if top[job[way]] < 0:  # the last way of its job
            if left + saved[way] <= 0.0:
                left += saved[way]
                continue  # given back: the one before it is now its last
            top[job[way]] = way
            chosen[job[way]] = target[way]
    return last, left
