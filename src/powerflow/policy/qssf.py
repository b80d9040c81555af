"""Provide QSSF: smallest predicted GPU time first, without preemption, with exactly the requested GPUs."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.policy.levels import by_key, held_gpus, requested_gpus, requested_run_s, take_until_blocked
from powerflow.policy.protocol import Allocation, View


class Qssf:
    """Start the job with the smallest predicted GPU time (run time × GPUs) first; other jobs only fill gaps.

    Source: Hu et al., SC'21 (Helios). The paper predicts the GPU time from the history of similar jobs; here the
    scheduler's estimate of the job's size is used. In the authors' simulator, the first job that does not fit blocks
    all jobs behind it. Here the predictions are also used for EASY backfilling (Lifka, JSSPP'95): the first job that
    does not fit gets a promise, the time at which enough GPUs will be free. A job behind it starts at once if it fits
    and does not delay the promised time. All jobs run on their requested GPUs at the maximum clock. A job that requests
    more GPUs than are up is skipped.
    """

    name = "qssf"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Return an allocation: running jobs keep their GPUs; waiting jobs start in order, or fill gaps."""
        allocation = view.nothing()
        need, run_s = requested_gpus(view), requested_run_s(view)
        gpus = held_gpus(view)
        order = by_key(view, run_s * np.maximum(need, 1))
        queue = order[(gpus[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
        gpus += take_until_blocked(need, queue, view.capacity - int(gpus.sum()))
        free = view.capacity - int(gpus.sum())
        waiting = queue[gpus[queue] == 0]
        if free > 0 and len(waiting) > 1:
            promised_s, spare = _promise(gpus, run_s, int(need[waiting[0]]) - free)
            gpus += _fill(need, run_s, waiting[1:], free, spare, promised_s)
        allocation.gpus = gpus
        return allocation


def _promise(gpus: IntArray, run_s: FloatArray, missing: int) -> tuple[float, int]:
    """Return in how many seconds enough GPUs will be free for a blocked job, and how many will be left free then.

    Args:
        gpus: ``[J]`` GPUs of each job; 0 for waiting jobs.
        run_s: ``[J]`` predicted remaining seconds of each job.
        missing: How many GPUs the blocked job needs in addition to the free ones, at least 1.
    """
    running = np.flatnonzero(gpus)
    by_end = running[np.argsort(run_s[running], kind="stable")]
    freed = np.cumsum(gpus[by_end])
    promised_s = float(run_s[by_end[np.searchsorted(freed, missing)]])
    ended = int(np.searchsorted(run_s[by_end], promised_s, side="right"))
    return promised_s, int(freed[ended - 1]) - missing


def _fill(need: IntArray, run_s: FloatArray, rows: IntArray, free: int, spare: int, promised_s: float) -> IntArray:
    """Give free GPUs to jobs that end before the promised time, or that need only GPUs that will be spare then.

    Args:
        need: ``[J]`` GPUs that each job needs.
        run_s: ``[J]`` predicted seconds that each job runs.
        rows: The jobs behind the blocked job, first to last.
        free: How many GPUs are free now.
        spare: How many GPUs will be free at the promised time, after the blocked job has started.
        promised_s: Seconds until the blocked job can start.

    Returns:
        ``[J]`` GPUs that each job gets.
    """
    given = np.zeros(len(need), np.int64)
    for row in rows[need[rows] <= free].tolist():
        gpus = int(need[row])
        ends_in_time = bool(run_s[row] <= promised_s)
        if gpus <= free and (ends_in_time or gpus <= spare):
            given[row] = gpus
            free -= gpus
            spare -= 0 if ends_in_time else gpus
    return given
