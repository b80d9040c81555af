"""Compute when a cluster without PowerFlow (the site) would have started the jobs of a log.

The jobs have their logged durations and requested GPUs. The site uses one of three queueing disciplines (rules that
start jobs). No discipline stops a running job:

- ``fifo``: strict order of submission. The first job that does not fit blocks all later jobs.
- ``easy``: EASY backfilling (Lifka, JSSPP'95), as in Slurm's backfill scheduler. The first job that does not fit gets a
  promise: the time at which enough GPUs will be free. A later job starts at once if it fits now and does not delay the
  promised time. Here the ends of jobs are known exactly; a real site knows only the time limits that its users give.
- ``first-fit``: every job that fits starts, in order of submission. Large waiting jobs get no promise.

All GPUs form one pool. Whether a job needs all its GPUs on one node is ignored.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import kernel

DISCIPLINES = ("fifo", "easy", "first-fit")
_FIFO, _EASY, _FIRST_FIT = range(3)

#: How many jobs behind a blocked job are considered at one time, as in Slurm (``bf_max_job_test``, 500 by default).
DEPTH = 500


def start_times(submit_s: FloatArray, run_s: FloatArray, gpus: IntArray, capacity: int, discipline: str) -> FloatArray:
    """Return the time at which each job would have started: ``[J]`` seconds, with the same zero as ``submit_s``.

    Args:
        submit_s: ``[J]`` submission times in seconds, ascending.
        run_s: ``[J]`` seconds that each job runs, > 0.
        gpus: ``[J]`` number of GPUs of each job, 1 to ``capacity``.
        capacity: Number of GPUs of the cluster.
        discipline: Name of the rule by which the queue starts jobs: one of `DISCIPLINES`.
    """
    count = len(submit_s)
    start_s = np.empty(count)
    _start_all(
        np.asarray(submit_s, np.float64),
        np.asarray(run_s, np.float64),
        np.asarray(gpus, np.int64),
        capacity,
        DISCIPLINES.index(discipline),
        DEPTH,
        start_s,
        np.empty(count, np.int64),
        np.empty(count),
        np.empty(count, np.int64),
    )
    return start_s


@kernel
def _promise(spare: int, low: int, high: int, end_s: FloatArray, held: IntArray) -> tuple[int, float]:
    """Return how many GPUs are left free when a blocked job can first start, and this time.

    The running jobs are at positions ``low`` to ``high`` of ``end_s`` (their ends, ascending) and ``held`` (their
    GPUs). ``spare`` is the number of free GPUs minus the GPUs that the blocked job needs; it is negative.

    Returns:
        The number of GPUs left free, and the time in seconds.
    """
    at, promised_s = low, np.inf
    while spare < 0:
        spare += held[at]
        promised_s = end_s[at]
        at += 1
    while at < high and end_s[at] == promised_s:
        spare += held[at]
        at += 1
    return spare, promised_s


@kernel
def _insert(end: float, gpus: int, low: int, high: int, end_s: FloatArray, held: IntArray) -> None:
    """Add a running job at its place, so that ``end_s`` (the ends of running jobs) stays ascending."""
    at = high
    while at > low and end_s[at - 1] > end:
        end_s[at], held[at] = end_s[at - 1], held[at - 1]
        at -= 1
    end_s[at], held[at] = end, gpus


@kernel
def _start_all(
    submit_s: FloatArray,
    run_s: FloatArray,
    gpus: IntArray,
    free: int,
    discipline: int,
    depth: int,
    start_s: FloatArray,
    behind: IntArray,
    end_s: FloatArray,
    held: IntArray,
) -> None:
    """Compute ``start_s``, the start of each job. The three arrays after it are scratch memory, ``[J]`` each.

    The queue is a linked list in ``behind``. Running jobs are at positions ``low`` to ``high`` of ``end_s`` (their
    ends, ascending) and ``held`` (their GPUs).
    """
    jobs = len(submit_s)
    arrived, low, high, head, tail = 0, 0, 0, -1, -1
    while arrived < jobs or head >= 0:
        now_s = min(end_s[low] if low < high else np.inf, submit_s[arrived] if arrived < jobs else np.inf)
        while low < high and end_s[low] <= now_s:
            free += held[low]
            low += 1
        while arrived < jobs and submit_s[arrived] <= now_s:
            behind[arrived] = -1
            if head < 0:
                head = arrived
            else:
                behind[tail] = arrived
            tail = arrived
            arrived += 1

        blocked, looked, spare, promised_s = False, 0, 0, np.inf
        before, job = -1, head
        while job >= 0 and free > 0 and looked <= depth:
            need, following = gpus[job], behind[job]
            starts = need <= free
            if blocked:
                looked += 1
                if starts and discipline == _EASY and now_s + run_s[job] > promised_s:
                    starts = need <= spare
                    if starts:
                        spare -= need
            elif not starts:
                if discipline == _FIFO:
                    break
                blocked = True
                if discipline == _EASY:
                    spare, promised_s = _promise(free - need, low, high, end_s, held)
            if starts:
                start_s[job] = now_s
                free -= need
                _insert(now_s + run_s[job], need, low, high, end_s, held)
                high += 1
                if before < 0:
                    head = following
                else:
                    behind[before] = following
                if following < 0:
                    tail = before
            else:
                before = job
            job = following
