"""Provide AFS-L: elastic sharing that weighs finishing short jobs early against using GPUs efficiently."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import array_kernel
from powerflow.policy.levels import feasible, step_times
from powerflow.policy.protocol import Allocation, View


class Afs:
    """Give out GPUs step by step, each time to the job that wins a comparison with each other job.

    Source: Hwang et al., NSDI'21 ("Elastic Resource Sharing for Distributed Deep Learning"), AFS-L. Two jobs a and b
    are compared; with its present GPUs, a would end before b. The throughput of a job is p now, and p′ with one more
    GPU. One GPU is free. If a gets this GPU, b gets it when a ends. The mean completion time of both jobs is lower if b
    gets this GPU at once, not a, exactly if ``(p_b′ − p_b)/p_b′ > (p_a′ − p_a)/p_a``. If neither job has GPUs, the job
    with less remaining time on its fewest GPUs comes first.

    The paper adds single GPUs. Here a step takes a job to the larger GPU count of its cost table that gains the most
    throughput per GPU, and p′ is interpolated at one GPU more. If the table has every count, the rule is the paper's.
    All jobs run at the maximum clock.
    """

    name = "afs"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Return an allocation: GPUs are given out step by step, each step to the job that wins all comparisons."""
        allocation = view.nothing()
        times = step_times(view)
        allowed = feasible(view, times)
        rate = np.zeros((len(view.jobs), len(view.gpu_counts) + 1))  # the first level is no GPU at all
        np.divide(1.0, times, out=rate[:, 1:], where=allowed)
        remaining = np.where(np.isfinite(view.jobs["remaining"]), view.jobs["remaining"], 1.0)
        counts = np.concatenate(([0], view.gpu_counts))
        allocation.gpus = counts[_tournaments(rate, remaining, counts, view.capacity)]
        return allocation


@array_kernel
def _next_level(rate: FloatArray, counts: IntArray, level: int, free: int) -> int:
    """Return the position of the next GPU count of one job; -1 if no larger count is faster and fits.

    A job without GPUs gets the smallest count on which it runs. Another job gets the count with the largest gain of
    throughput per GPU.

    Args:
        rate: Iterations per second at each GPU count; 0 where the job cannot run.
        counts: GPU counts, ascending, beginning with 0.
        level: Position of the present GPU count in ``counts``.
        free: How many GPUs are free.
    """
    target, steepest = -1, 0.0
    for up in range(level + 1, len(counts)):
        width = counts[up] - counts[level]
        if width > free:
            break
        gain = (rate[up] - rate[level]) / width
        if gain > steepest:
            target, steepest = up, gain
            if level == 0:
                break
    return target


@array_kernel
def _tournaments(rate: FloatArray, remaining: FloatArray, counts: IntArray, capacity: int) -> IntArray:
    """Return the position of each job's GPU count in ``counts``, ``[J]`` for J jobs.

    The jobs compete in pairs, as in a knock-out tournament in order of rows; the winner gets the next GPUs. After each
    step only the log J comparisons of this winner are made again.

    Args:
        rate: ``[J, N+1]`` iterations per second of each job at each count of ``counts``; 0 where it cannot run.
        remaining: ``[J]`` remaining iterations.
        counts: ``[N+1]`` GPU counts, ascending, beginning with 0.
        capacity: How many GPUs to give out.
    """
    jobs = len(remaining)
    level = np.zeros(jobs, np.int64)
    target = np.zeros(jobs, np.int64)
    left_s = np.zeros(jobs)  # remaining time on its present GPUs; without GPUs, on the fewest that it can run on
    short_gain = np.zeros(jobs)  # (p′ − p)/p
    long_gain = np.ones(jobs)  # (p′ − p)/p′
    first_leaf = 1
    while first_leaf < jobs:
        first_leaf *= 2
    winner = np.full(2 * first_leaf, -1)  # node i has the sub-brackets 2i and 2i + 1; -1 is an empty place
    free = capacity
    for row in range(jobs):
        target[row] = _next_level(rate[row], counts, 0, free)
        if target[row] > 0:
            left_s[row] = remaining[row] / rate[row, target[row]]
            winner[first_leaf + row] = row
    for node in range(first_leaf - 1, 0, -1):
        winner[node] = _match(winner[2 * node], winner[2 * node + 1], level, left_s, short_gain, long_gain)
    while free > 0 and winner[1] >= 0:
        row = winner[1]
        width = counts[target[row]] - counts[level[row]]
        if width <= free:
            free -= width
            level[row] = target[row]
            left_s[row] = remaining[row] / rate[row, level[row]]
        target[row] = _next_level(rate[row], counts, level[row], free)
        if target[row] < 0:
            winner[first_leaf + row] = -1
        elif level[row] > 0:
            now = rate[row, level[row]]
            gain = (rate[row, target[row]] - now) / (counts[target[row]] - counts[level[row]])
            short_gain[row] = gain / now
            long_gain[row] = gain / (now + gain)
        node = (first_leaf + row) // 2
        while node > 0:
            winner[node] = _match(winner[2 * node], winner[2 * node + 1], level, left_s, short_gain, long_gain)
            node //= 2
    return level


@array_kernel
def _match(
    one: int, other: int, level: IntArray, left_s: FloatArray, short_gain: FloatArray, long_gain: FloatArray
) -> int:
    """Return the row of the job, out of two, that gets the next GPU; ``one`` is the lower row and wins ties.

    A row of -1 stands for no job, so that the other job wins.

    Args:
        one, other: Rows of the two jobs.
        level: ``[J]`` position of each job's GPU count; 0 for no GPU.
        left_s: ``[J]`` remaining seconds on the present GPUs; for a job without GPUs, on its fewest GPUs.
        short_gain, long_gain: ``[J]`` (p′ − p)/p and (p′ − p)/p′ for throughput p now and p′ with one GPU more.
    """
    if one < 0 or other < 0:
        return max(one, other)
    if level[one] == 0 and level[other] == 0:
        return other if left_s[other] < left_s[one] else one
    # a job without GPUs never ends, so it is the longer one
    other_is_shorter = level[one] == 0 or (level[other] > 0 and left_s[other] < left_s[one])
    if other_is_shorter:
        return one if long_gain[one] > short_gain[other] else other
    return other if long_gain[other] > short_gain[one] else one
