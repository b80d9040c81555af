"""Compute, in compiled code, the least cost of a group of similar jobs at given prices of GPUs and energy.

The symbols are those of ``docs/bound.md``: v is the worth of an iteration, h(v) is the most that a job can gain per
second at the worth v, and H(C, v) is the integral of h over time up to the time C.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import array_kernel, inlined


@array_kernel
def gain_tables(
    worth: FloatArray,
    envelope: FloatArray,
    row_pool: IntArray,
    row_gpus: IntArray,
    price: FloatArray,
    gain: FloatArray,
    choice: IntArray,
) -> None:
    """Compute the best gain per second at each worth of an iteration in each time interval, and the row with this gain.

    A row is a pool and a GPU count.

    Args:
        worth: ``[V]`` worths of an iteration, v, ascending.
        envelope: ``[R, V]`` the largest ``v·S − λ_E·D`` over all clocks, for each row. S is iterations per second, D is
            watts above idle, λ_E is the energy price.
        row_pool: ``[R]`` pool of each row.
        row_gpus: ``[R]`` number of GPUs of each row.
        price: ``[P, T]`` price of a GPU, λ_G, in each pool and time interval.
        gain: ``[T, V]`` result: the best gain per second, h.
        choice: ``[T, V]`` result: the row with the best gain; -1 if waiting is best.
    """
    nodes = len(worth)
    for k in range(price.shape[1]):
        for i in range(nodes):
            gain[k, i] = 0.0
            choice[k, i] = -1
        for r in range(len(row_gpus)):
            rent = price[row_pool[r], k] * row_gpus[r]
            if envelope[r, nodes - 1] <= rent:
                continue  # an envelope never falls as v grows: this row gains nothing at any worth
            for i in range(nodes):  # without a branch, so that it compiles to vector instructions
                value = envelope[r, i] - rent
                better = value > gain[k, i]
                gain[k, i] = value if better else gain[k, i]
                choice[k, i] = r if better else choice[k, i]


@array_kernel
def spent(
    held_s: FloatArray,
    choice: IntArray,
    row_pool: IntArray,
    row_gpus: IntArray,
    added_w: FloatArray,
    gpu_s: FloatArray,
) -> float:
    """Add the GPU-seconds that jobs use to ``gpu_s``, and return the joules above idle that they use.

    Args:
        held_s: ``[T, V]`` seconds that jobs spend in each time interval at each worth of an iteration.
        choice: ``[T, V]`` row (pool, GPU count) that is best for each of them; -1 for waiting.
        row_pool: ``[R]`` pool of each row.
        row_gpus: ``[R]`` number of GPUs of each row.
        added_w: ``[R, V]`` watts above idle of each row, at the best clock for each worth.
        gpu_s: ``[P, T]`` result: GPU-seconds in each pool and interval are added to it.
    """
    energy_j = 0.0
    for k in range(held_s.shape[0]):
        for i in range(held_s.shape[1]):
            if held_s[k, i] == 0.0:  # nearly everywhere
                continue
            r = choice[k, i]
            if r >= 0:
                gpu_s[row_pool[r], k] += held_s[k, i] * row_gpus[r]
                energy_j += held_s[k, i] * added_w[r, i]
    return energy_j


@array_kernel
def cheapest(  # noqa: C901 - a compiled kernel whose loops share their local values
    worth: FloatArray,
    grid_s: FloatArray,
    gain: FloatArray,
    weight: float,
    release_s: FloatArray,
    first: IntArray,
    work: FloatArray,
    held_s: FloatArray,
) -> float:
    """Return the least cost of each job, summed over jobs: ``min over C of max over v of g(C, v)``.

    C is the time at which the job ends, v the worth of an iteration, and g the cost (``docs/bound.md`` §3).

    Args:
        worth: ``[V]`` worths v, ascending. The first worth must satisfy ``h(worth[0]) ≤ weight`` at every GPU price ≥
            0.
        grid_s: ``[T + 1]`` ends of the time intervals; GPU prices are 0 after the last interval.
        gain: ``[T, V]`` most that a job can gain per second, h, in each interval.
        weight: Weight of each of the jobs.
        release_s: ``[J]`` time from which each job may run: not before ``grid_s[0]``, and before ``grid_s[T]``.
        first: ``[J]`` interval that contains the release of each job.
        work: ``[J]`` iterations of each job.
        held_s: ``[T, V]`` result: seconds that jobs spend in each interval at each worth are added to it.

    Returns:
        Weighted seconds.
    """
    intervals, nodes = gain.shape
    ahead = np.zeros((intervals + 1, nodes))  # held_s of whole intervals, as differences along time
    total_gain = np.zeros((intervals + 1, nodes))  # H(grid, v)
    stays = np.zeros(nodes, np.bool_)  # worths at which some job spends whole intervals
    corner = np.full(intervals, -1)  # the piece of h on which it passes the weight …
    share = np.zeros(intervals)  # … and how far along it
    for k in range(intervals):
        span = grid_s[k + 1] - grid_s[k]
        for i in range(nodes):
            total_gain[k + 1, i] = total_gain[k, i] + span * gain[k, i]
        if gain[k, 0] <= weight < gain[k, nodes - 1]:
            i, above = 0, nodes - 1  # the gain never falls as v grows: halve the worths between
            while above - i > 1:
                middle = (i + above) // 2
                if gain[k, middle] <= weight:
                    i = middle
                else:
                    above = middle
            corner[k] = i
            share[k] = (weight - gain[k, i]) / (gain[k, i + 1] - gain[k, i])

    cost = 0.0
    for j in range(len(work)):
        start = release_s[j]
        k0 = first[j]
        into = start - grid_s[k0]
        size = work[j]

        # C = release: no time, no gain
        at = nodes - 1  # the best worth for the C at hand; it only falls as C grows
        best = worth[at] * size
        best_node = at
        best_k = k0
        best_mix = 0.0  # share of the node above best_node
        best_end = start

        for k in range(k0, intervals):
            end = grid_s[k + 1]
            before = at
            flow = weight * (end - start)
            here = flow + worth[at] * size - _since(total_gain, gain, k + 1, k0, into, at)
            while at > 0:
                below = flow + worth[at - 1] * size - _since(total_gain, gain, k + 1, k0, into, at - 1)
                if below < here:
                    break
                here = below
                at -= 1
            m = corner[k]
            if m >= 0 and before > m >= at:
                # the best worth passes the corner inside the interval: the minimum is inside too
                begin = max(grid_s[k], start)
                if k == k0:
                    low = 0.0
                    high = 0.0
                else:
                    low = _since(total_gain, gain, k, k0, into, m)
                    high = _since(total_gain, gain, k, k0, into, m + 1)
                mix = share[k]
                value = weight * (begin - start)
                value += (1.0 - mix) * (worth[m] * size - low) + mix * (worth[m + 1] * size - high)
                if value < best:
                    best = value
                    best_node = m
                    best_mix = mix
                    best_k = k
                    step = worth[m + 1] - worth[m]
                    lacking = size - (high - low) / step
                    best_end = begin + lacking * step / (gain[k, m + 1] - gain[k, m])
            if here < best:
                best = here
                best_node = at
                best_mix = 0.0
                best_k = k
                best_end = end
            floor = flow + worth[0] * size - _since(total_gain, gain, k + 1, k0, into, 0)
            if floor >= best:
                break  # g(C, worth[0]) never falls: nothing later is cheaper
            if k == intervals - 1 and floor < best:
                best = floor
                best_node = 0
                best_mix = 0.0
                best_k = k
                best_end = end
        cost += best

        for side in range(2):
            part = best_mix if side == 1 else 1.0 - best_mix
            if part <= 0.0:
                continue
            i = best_node + side
            if best_k == k0:
                held_s[k0, i] += part * (best_end - start)
            else:
                held_s[k0, i] += part * (grid_s[k0 + 1] - start)
                held_s[best_k, i] += part * (best_end - grid_s[best_k])
                ahead[k0 + 1, i] += part
                ahead[best_k, i] -= part
                stays[i] = True

    for i in range(nodes):
        if not stays[i]:
            continue
        present = 0.0
        for k in range(intervals):
            present += ahead[k, i]
            held_s[k, i] += present * (grid_s[k + 1] - grid_s[k])
    return cost


@inlined
def _since(total_gain: FloatArray, gain: FloatArray, k: int, k0: int, into: float, i: int) -> float:
    """Return the gain H from ``into`` seconds after the start of interval ``k0`` to the start of interval ``k``."""
    return total_gain[k, i] - total_gain[k0, i] - into * gain[k0, i]  # type: ignore[no-any-return]
