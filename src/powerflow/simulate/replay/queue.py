"""Compute when a cluster without PowerFlow (the site) would have started the jobs of a log.

The jobs have their logged durations and requested GPUs. The site uses one of three queueing disciplines (rules that
start jobs). No discipline stops a running job:

- ``fifo``: strict order of submission. The first job that does not fit blocks all later jobs.
- ``easy``: EASY backfilling (Lifka, JSSPP'95), as in Slurm's backfill scheduler. The first job that does not fit gets a
  promise: the time at which enough GPUs will be free. A later job starts at once if it fits now and does not delay the
  promised time. Here the ends of jobs are known exactly.
- ``easy-limits``: the same, by the time limits that users gave, as on a real site. A job that ends before its limit
  gives back its GPUs then. The ends of jobs without a limit are known exactly.
- ``first-fit``: every job that fits starts, in order of submission. Large waiting jobs get no promise.

All GPUs form one pool. Whether a job needs all its GPUs on one node is ignored.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import kernel

DISCIPLINES = ("fifo", "easy", "easy-limits", "first-fit")
#: Their names in a sentence.
NAMES = {
    "fifo": "FIFO",
    "easy": "EASY backfilling",
    "easy-limits": "EASY backfilling by time limits",
    "first-fit": "first fit",
}
_FIFO, _EASY, _EASY_LIMITS, _FIRST_FIT = range(4)

#: How many jobs behind a blocked job are considered at one time, as in Slurm (``bf_max_job_test``, 500 by default).
DEPTH = 500


def start_times(
    submit_s: FloatArray,
    run_s: FloatArray,
    gpus: IntArray,
    capacity: int,
    discipline: str,
    limit_s: FloatArray | None = None,
) -> FloatArray:
    """Return the time at which each job would have started: ``[J]`` seconds, with the same zero as ``submit_s``.

    Args:
        submit_s: ``[J]`` submission times in seconds, ascending.
        run_s: ``[J]`` seconds that each job runs, > 0.
        gpus: ``[J]`` number of GPUs of each job, 1 to ``capacity``.
        capacity: Number of GPUs of the cluster.
        discipline: Name of the rule by which the queue starts jobs: one of `DISCIPLINES`.
        limit_s: ``[J]`` time limits of jobs, seconds; nan for a job without a limit. Only ``easy-limits`` uses them.
    """
    count = len(submit_s)
    start_s = np.empty(count)
    planned_s = np.asarray(run_s, np.float64)
    if discipline == "easy-limits" and limit_s is not None:
        planned_s = np.where(np.isfinite(limit_s), limit_s, planned_s)
    _start_all(
        np.asarray(submit_s, np.float64),
        np.asarray(run_s, np.float64),
        planned_s,
        np.asarray(gpus, np.int64),
        capacity,
        DISCIPLINES.index(discipline),
        DEPTH,
        start_s,
        np.empty(count, np.int64),
        np.empty(count),
        np.empty(count, np.int64),
        np.empty(count),
        np.empty(count, np.int64),
        np.empty(count),
    )
    return start_s


@kernel
def _promise(spare: int, now_s: float, running: int, plan_s: FloatArray, planned: IntArray) -> tuple[int, float]:
    """Return how many GPUs are left free when a blocked job can first start by plan, and this time.

    Args:
        spare: Number of free GPUs minus the GPUs that the blocked job needs; it is negative.
        now_s: The present. A job that has passed its time limit is planned to end now.
        running: Number of running jobs.
        plan_s, planned: Their planned ends, ascending, and their GPUs.

    Returns:
        The number of GPUs left free, and the time in seconds.
    """
    at, promised_s = 0, np.inf
    while spare < 0:
        spare += planned[at]
        promised_s = max(plan_s[at], now_s)
        at += 1
    while at < running and max(plan_s[at], now_s) == promised_s:
        spare += planned[at]
        at += 1
    return spare, promised_s


@kernel
def _insert(end: float, gpus: int, low: int, high: int, end_s: FloatArray, held: IntArray) -> int:
    """Add a running job at its place, so that ``end_s`` stays ascending, and return this place."""
    at = high
    while at > low and end_s[at - 1] > end:
        end_s[at], held[at] = end_s[at - 1], held[at - 1]
        at -= 1
    end_s[at], held[at] = end, gpus
    return at


@kernel
def _make_room(at: int, high: int, values: FloatArray) -> None:
    """Move the values from ``at`` to ``high`` one place up."""
    for i in range(high, at, -1):
        values[i] = values[i - 1]


@kernel
def _remove(end: float, gpus: int, running: int, end_s: FloatArray, held: IntArray) -> None:
    """Remove one job with this end and these GPUs from the first ``running`` places."""
    at = np.searchsorted(end_s[:running], end)
    while held[at] != gpus:
        at += 1
    for i in range(at, running - 1):
        end_s[i], held[i] = end_s[i + 1], held[i + 1]


@kernel
def _start_all(
    submit_s: FloatArray,
    run_s: FloatArray,
    planned_s: FloatArray,
    gpus: IntArray,
    free: int,
    discipline: int,
    depth: int,
    start_s: FloatArray,
    behind: IntArray,
    end_s: FloatArray,
    held: IntArray,
    plan_s: FloatArray,
    planned: IntArray,
    own_plan_s: FloatArray,
) -> None:
    """Compute ``start_s``, the start of each job. The arrays after it are scratch memory, ``[J]`` each.

    The queue is a linked list in ``behind``. Running jobs are at positions ``low`` to ``high`` of ``end_s`` (their
    ends, ascending), ``held`` (their GPUs) and ``own_plan_s`` (their planned ends); and again, in the order of their
    planned ends, at the first positions of ``plan_s`` and ``planned``.
    """
    jobs = len(submit_s)
    backfills = discipline in (_EASY, _EASY_LIMITS)
    arrived, low, high, head, tail = 0, 0, 0, -1, -1
    while arrived < jobs or head >= 0:
        now_s = min(end_s[low] if low < high else np.inf, submit_s[arrived] if arrived < jobs else np.inf)
        while low < high and end_s[low] <= now_s:
            free += held[low]
            _remove(own_plan_s[low], held[low], high - low, plan_s, planned)
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
                if starts and backfills and now_s + planned_s[job] > promised_s:
                    starts = need <= spare
                    if starts:
                        spare -= need
            elif not starts:
                if discipline == _FIFO:
                    break
                blocked = True
                if backfills:
                    spare, promised_s = _promise(free - need, now_s, high - low, plan_s, planned)
            if starts:
                start_s[job] = now_s
                free -= need
                at = _insert(now_s + run_s[job], need, low, high, end_s, held)
                _make_room(at, high, own_plan_s)
                own_plan_s[at] = now_s + planned_s[job]
                _insert(own_plan_s[at], need, 0, high - low, plan_s, planned)
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
