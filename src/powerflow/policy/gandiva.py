"""Implement Gandiva: time slices when there are too many jobs, extra GPUs when there are few."""

from __future__ import annotations

import heapq

import numpy as np

from powerflow.arrays import IntArray
from powerflow.errors import InputError
from powerflow.policy.levels import feasible, requested_gpus, step_times, take_what_fits
from powerflow.policy.protocol import Allocation, View

DEFAULT_SLICE_S = 60.0

#: Least length of a slice, as a multiple of the pause that a switch costs.
SLICE_PER_PAUSE = 10.0


class Gandiva:
    """Policy that serves jobs in turns (round-robin) on the requested GPUs, and lets jobs grow onto idle GPUs.

    Xiao et al., OSDI'18: suspend-resume (turns of about a minute) and grow-shrink. It needs neither sizes nor
    priorities. All slices end at the same times; then the job that has waited longest chooses first, so that small jobs
    do not keep large ones out. The paper's switches take less than a second; with longer pauses (``pause_s``), slices
    are extended to `SLICE_PER_PAUSE` pauses. Packing two jobs on one GPU and migration are outside our resource model
    and left out.

    Args:
        slice_s: Length of a turn in seconds.
    """

    needs_sizes = False

    def __init__(self, slice_s: float = DEFAULT_SLICE_S) -> None:
        if not (np.isfinite(slice_s) and slice_s > 0):
            raise InputError(f"slice {slice_s!r} is not above 0 s", fix="give seconds, 60 in the paper")
        self.name = "gandiva" if slice_s == DEFAULT_SLICE_S else f"gandiva:{slice_s:g}"
        self.slice_s = slice_s
        self.period_s: float | None = slice_s

    def decide(self, view: View) -> Allocation:
        """Give all jobs their requested GPUs, and more if some are idle; if they do not fit, in turns."""
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
    """Order the rows by who chooses first: jobs inside their slice, waiting jobs, jobs whose slice is over."""
    jobs = view.jobs
    slice_s = max(slice_s, SLICE_PER_PAUSE * float(jobs["pause_s"].max()))
    running = jobs["gpus"] > 0
    inside = running & (jobs["since_s"] // slice_s == view.now_s // slice_s)
    turn = np.where(inside, 0, np.where(running, 2, 1))
    return np.lexsort((jobs["id"], jobs["since_s"], turn)).astype(np.int64)


def _grow(view: View, gpus: IntArray) -> IntArray:
    """Give out idle GPUs: to the smallest job first, one count up, inside one node, while the job gets faster."""
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
