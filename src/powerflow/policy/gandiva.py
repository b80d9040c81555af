"""Provide Gandiva: jobs take turns when there are too many of them, and get extra GPUs when there are few jobs."""

from __future__ import annotations

import heapq

import numpy as np

from powerflow.arrays import IntArray
from powerflow.errors import InputError
from powerflow.policy.levels import feasible, requested_gpus, step_times, take_what_fits
from powerflow.policy.protocol import Allocation, View

DEFAULT_SLICE_S = 60.0

#: Shortest length of a turn, as a multiple of the pause that a switch between two jobs costs. In the paper a switch
#: takes at most 1/60 of a turn. Of 10, 20, 30, 40 and 60, mean completion time was best with 30 (docs/policies.md).
SLICE_PER_PAUSE = 30.0


class Gandiva:
    """Let jobs take turns (round-robin) on their requested GPUs, and let jobs grow onto idle GPUs.

    Source: Xiao et al., OSDI'18: suspend-resume (turns of about a minute) and grow-shrink. The policy needs neither
    sizes nor priorities of jobs. The turns of all jobs end at the same times. Then the job that has waited longest is
    served first, so that small jobs do not keep large jobs out. In the paper a switch takes less than a second. Here a
    turn lasts at least 30 (`SLICE_PER_PAUSE`) times the longest pause of a job (``pause_s``). The paper also puts two
    jobs on one GPU and migrates jobs; PowerFlow does neither.

    Args:
        slice_s: Length of a turn, seconds.

    Raises:
        InputError: The length is not positive and finite.
    """

    needs_sizes = False

    def __init__(self, slice_s: float = DEFAULT_SLICE_S) -> None:
        if not (np.isfinite(slice_s) and slice_s > 0):
            raise InputError(f"slice {slice_s!r} is not above 0 s", fix="give seconds, 60 in the paper")
        self.name = "gandiva" if slice_s == DEFAULT_SLICE_S else f"gandiva:{slice_s:g}"
        self.slice_s = slice_s
        self.period_s: float | None = slice_s

    def decide(self, view: View) -> Allocation:
        """Return an allocation: all jobs get their requested GPUs and idle GPUs, or take turns if there are too few."""
        allocation = view.nothing()
        need = requested_gpus(view)
        need[need > view.capacity] = 0
        if need.sum() <= view.capacity:
            allocation.gpus = _grow(view, need)
        else:
            turns = _turns(view, self.slice_s)
            allocation.gpus = take_what_fits(need, turns[need[turns] > 0], view.capacity)
        return allocation


def _turns(view: View, slice_s: float) -> IntArray:
    """Return the rows in the order in which jobs are served.

    First come jobs whose turn still lasts, then waiting jobs, then jobs whose turn is over. In each group, the job that
    has waited or run longest comes first.
    """
    jobs = view.jobs
    slice_s = max(slice_s, SLICE_PER_PAUSE * float(jobs["pause_s"].max()))
    running = jobs["gpus"] > 0
    inside = running & (jobs["since_s"] // slice_s == view.now_s // slice_s)
    turn = np.where(inside, 0, np.where(running, 2, 1))
    return np.lexsort((jobs["id"], jobs["since_s"], turn)).astype(np.int64)


def _grow(view: View, gpus: IntArray) -> IntArray:
    """Return the GPU counts of all jobs after idle GPUs were given out.

    Each time, the job with the fewest GPUs gets the next larger GPU count, if the job then still fits into one node and
    becomes faster.

    Args:
        view: All J jobs.
        gpus: ``[J]`` GPU counts before.
    """
    free = view.capacity - int(gpus.sum())
    if free <= 0 or not len(gpus):
        return gpus
    times = step_times(view)
    reach = np.where(feasible(view, times) & (view.gpu_counts <= view.gpus_per_node), times, np.inf).tolist()
    counts = view.gpu_counts.tolist()
    grown = gpus.tolist()
    level = view.count_index[gpus].tolist()
    own_times = times[np.arange(len(gpus)), level].tolist()
    waiting = [(n, row) for row, n in enumerate(grown) if n]
    heapq.heapify(waiting)
    while free > 0 and waiting:
        n, row = heapq.heappop(waiting)
        up = level[row] + 1
        if up < len(counts) and counts[up] - n <= free and reach[row][up] < own_times[row]:
            free -= counts[up] - n
            level[row], grown[row], own_times[row] = up, counts[up], reach[row][up]
            heapq.heappush(waiting, (counts[up], row))
    return np.array(grown, np.int64)
