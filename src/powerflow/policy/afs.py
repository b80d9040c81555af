"""AFS-L: elastic sharing that weighs finishing short jobs early against using GPUs well."""

from __future__ import annotations

import numpy as np
from numba import njit

from powerflow.cost.table import FloatArray, IntArray
from powerflow.policy.levels import feasible, step_times
from powerflow.policy.protocol import Allocation, View


class Afs:
    """GPUs go one step at a time to the job that wins against all others in pairs.

    Hwang et al., NSDI'21 ("Elastic Resource Sharing for Distributed Deep Learning"), AFS-L. Take two jobs, a the
    one that would end first with what it has, throughputs p now and p′ with one GPU more. If b, the longer one, gets
    that GPU at the latest when a ends, their mean completion time is lower with the GPU going to b at once exactly when
    ``(p_b′ − p_b)/p_b′ > (p_a′ − p_a)/p_a``. Of two jobs with nothing, the one with less time remaining on the fewest
    GPUs it can run on comes first.

    The paper adds single GPUs. Here a step leads to the larger count of the cost table with the greatest
    throughput gained per GPU, and p′ is taken at one GPU more on the straight line to it: the same rule where counts
    are consecutive. Maximum clock.
    """

    name = "afs"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Play the tournament once for every step until the GPUs are gone."""
        allocation = view.nothing()
        times = step_times(view)
        allowed = feasible(view, times)
        rate = np.zeros((len(view.jobs), len(view.gpu_counts) + 1))  # the first level is no GPU at all
        np.divide(1.0, times, out=rate[:, 1:], where=allowed)
        remaining = np.where(np.isfinite(view.jobs["remaining"]), view.jobs["remaining"], 1.0)
        counts = np.concatenate(([0], view.gpu_counts))
        allocation.gpus = counts[_tournaments(rate, remaining, counts, view.capacity)]
        return allocation


@njit(cache=True)
def _next_level(rate: FloatArray, counts: IntArray, level: int, free: int) -> int:
    """The level that the next step leads to: from nothing the smallest that runs, else the best per GPU; -1 if none."""
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


@njit(cache=True)
def _tournaments(rate: FloatArray, remaining: FloatArray, counts: IntArray, capacity: int) -> IntArray:
    """Levels ``[J]`` from iterations per second ``[J, N+1]`` and iterations to do ``[J]``. Ties go to the lower row."""
    jobs = len(remaining)
    level = np.zeros(jobs, np.int64)
    target = np.zeros(jobs, np.int64)
    left_s = np.zeros(jobs)  # time remaining with what it has; while it has nothing, with the least it can run on
    short_gain = np.zeros(jobs)  # (p′ − p)/p
    long_gain = np.zeros(jobs)  # (p′ − p)/p′
    playing = np.zeros(jobs, np.int64)
    players = 0
    free = capacity
    for row in range(jobs):
        target[row] = _next_level(rate[row], counts, 0, free)
        if target[row] > 0:
            left_s[row] = remaining[row] / rate[row, target[row]]
            long_gain[row] = 1.0
            playing[players] = row
            players += 1
    while free > 0 and players > 0:
        best = playing[0]
        for place in range(1, players):
            row = playing[place]
            if level[best] == 0 or level[row] == 0:
                if level[best] == level[row]:
                    if left_s[row] < left_s[best]:
                        best = row
                elif level[best] == 0:  # a job with nothing never ends: it is the longer one
                    if short_gain[row] >= long_gain[best]:
                        best = row
                elif long_gain[row] > short_gain[best]:
                    best = row
            elif left_s[row] < left_s[best]:
                if short_gain[row] >= long_gain[best]:
                    best = row
            elif long_gain[row] > short_gain[best]:
                best = row
        free -= counts[target[best]] - counts[level[best]]
        level[best] = target[best]
        left_s[best] = remaining[best] / rate[best, level[best]]
        still = 0
        for place in range(players):
            row = playing[place]
            if row == best or counts[target[row]] - counts[level[row]] > free:
                target[row] = _next_level(rate[row], counts, level[row], free)
                if target[row] > 0 and level[row] > 0:
                    now = rate[row, level[row]]
                    gain = (rate[row, target[row]] - now) / (counts[target[row]] - counts[level[row]])
                    short_gain[row] = gain / now
                    long_gain[row] = gain / (now + gain)
            if target[row] > 0:
                playing[still] = row
                still += 1
        players = still
    return level
