"""How a site that gives every job the GPUs it asked for would have started a log's jobs, with the log's own durations.

Three disciplines that sites run, none of which stops a running job:

- ``fifo``: strict order of submission; the first job that does not fit blocks all behind it.
- ``easy``: EASY backfilling (Lifka, JSSPP'95), what Slurm's backfill scheduler does: the first job that does not fit
  is promised the moment at which enough GPUs will be free; a job behind it may start if it fits now and does not
  put that moment off. Here ends are known exactly; a site knows only the time limits that people gave.
- ``first-fit``: whoever fits starts, in order of submission; nothing is promised to a large job that waits.

GPUs are one pool: that a job may need them on one node is not looked at.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import kernel

DISCIPLINES = ("fifo", "easy", "first-fit")
_FIFO, _EASY, _FIRST_FIT = range(3)

#: Jobs behind a blocked one that are looked at in one pass, as in Slurm (``bf_max_job_test``, 500 by default).
DEPTH = 500


def start_times(submit_s: FloatArray, run_s: FloatArray, gpus: IntArray, capacity: int, discipline: str) -> FloatArray:
    """When each job would have started.

    Args:
        submit_s: ``[J]`` submissions in seconds, ascending; ties go by position.
        run_s: ``[J]`` seconds each runs, > 0.
        gpus: ``[J]`` GPUs each holds, 1 to ``capacity``.
        capacity: GPUs there are.
        discipline: One of `DISCIPLINES`.

    Returns:
        ``[J]`` seconds, on the clock of ``submit_s``.
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
    """Writes ``start_s``; the three arrays after it are scratch, ``[J]`` each.

    The queue is a linked list by ``behind``. The jobs that run are at ``low`` to ``high`` of ``end_s`` (when they end,
    ascending) and ``held`` (GPUs).
    """
    jobs = len(submit_s)
    arrived, low, high, head, tail = 0, 0, 0, -1, -1
    while arrived < jobs or head >= 0:
        now_s = end_s[low] if low < high else np.inf
        if arrived < jobs and submit_s[arrived] < now_s:
            now_s = submit_s[arrived]
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
                    spare = free - need
                    at = low
                    while spare < 0:
                        spare += held[at]
                        promised_s = end_s[at]
                        at += 1
                    while at < high and end_s[at] == promised_s:
                        spare += held[at]
                        at += 1
            if starts:
                start_s[job] = now_s
                free -= need
                at = high
                while at > low and end_s[at - 1] > now_s + run_s[job]:
                    end_s[at], held[at] = end_s[at - 1], held[at - 1]
                    at -= 1
                end_s[at], held[at] = now_s + run_s[job], need
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
