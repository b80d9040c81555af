"""Implement AFS-L: elastic sharing that weighs finishing short jobs early against using GPUs efficiently."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import array_kernel
from powerflow.policy.levels import feasible, step_times
from powerflow.policy.protocol import Allocation, View


class Afs:
    """Policy that gives GPUs, one step at a time, to the job that wins pairwise comparisons with all others.

    Hwang et al., NSDI'21 ("Elastic Resource Sharing for Distributed Deep Learning"), AFS-L. Of two jobs, let a be the
    one that would end first with its present GPUs, p its throughput now, p′ with one GPU more. If b, the longer one,
    gets that GPU at the latest when a ends, their mean completion time is lower with the GPU going to b at once exactly
    if ``(p_b′ − p_b)/p_b′ > (p_a′ − p_a)/p_a``. Of two jobs without GPUs, the one with less remaining time on its
    fewest GPUs comes first.

    The paper adds single GPUs. Here a step goes to the larger count of the cost table with the greatest throughput gain
    per GPU, and p′ is interpolated at one GPU more; with consecutive counts the rule is the same. Clock: maximum.
    """

    name = "afs"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Run a tournament for every step until no GPUs are left."""
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
    """Return the level of the next step: from nothing the smallest that runs, else the best per GPU; -1 if none."""
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
    """Return each job's level from its iterations per second at each level, ``[J, N+1]``, and its remaining iterations.

    The jobs form a knock-out bracket in order of rows. After each step only the matches of the job that took it are
    played again: log J of them.
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
    """Return which of two jobs gets the next GPU; ``one`` has the lower row and wins ties. -1 is an empty place."""
    if one < 0 or other < 0:
        return max(one, other)
    if level[one] == 0 and level[other] == 0:
        return other if left_s[other] < left_s[one] else one
    # a job without GPUs never ends, so it is the longer one
    other_is_shorter = level[one] == 0 or (level[other] > 0 and left_s[other] < left_s[one])
    if other_is_shorter:
        return one if long_gain[one] > short_gain[other] else other
    return other if long_gain[other] > short_gain[one] else one
