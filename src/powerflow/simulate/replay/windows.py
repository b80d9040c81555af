"""Choose windows of a log: consecutive jobs, together with the jobs that ran or waited when the window began.

Several simulations of all jobs of a long log would take hours. So each simulation uses only one window. The log is
divided into as many equal parts as there are windows, and each window begins at a random place in its own part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.simulate.replay.log import Log
from powerflow.trace.record import Trace, TraceJob


@dataclass(frozen=True, slots=True, eq=False)
class LogWindow:
    """A window of a log: consecutive jobs, together with the jobs that ran or waited when the window began.

    Attributes:
        jobs: All jobs of the window. First come the jobs that already ran or waited when the window began. They are
            submitted at its start, with the work that they had left. Then come the jobs submitted in the window.
        positions: Position of each of these jobs in the log.
        carried: Number of jobs that already ran or waited when the window began.
        begin_s, end_s: First and last submission in the window, seconds since the first submission of the log.
    """

    jobs: Trace
    positions: IntArray
    carried: int
    begin_s: float
    end_s: float


def windows(trace: Trace, log: Log, start_s: FloatArray, *, draws: int, most_jobs: int, seed: int) -> list[LogWindow]:
    """Return windows of ``most_jobs`` consecutive jobs of a log; a shorter log is used as a whole in each window.

    Each window also has the jobs that ran or waited when it began.

    Args:
        trace: The log.
        log: The same log as arrays.
        start_s: ``[J]`` time at which each job started, as reproduced, seconds.
        draws: Number of windows.
        most_jobs: Number of jobs that are submitted in each window.
        seed: Seed of the random places at which windows begin.
    """
    count = len(log.submit_s)
    if count <= most_jobs:
        return [_window(trace, log, start_s, 0, count)] * draws
    rng = np.random.default_rng([seed, 0x3E91])
    places = (np.arange(draws) + rng.random(draws)) * (count - most_jobs) / draws
    return [_window(trace, log, start_s, int(first), int(first) + most_jobs) for first in places]


def _window(trace: Trace, log: Log, start_s: FloatArray, first: int, after: int) -> LogWindow:
    begin_s, end_s = float(log.submit_s[first]), float(log.submit_s[after - 1])
    earlier = np.arange(first)
    ran = earlier[(start_s[:first] < begin_s) & (start_s[:first] + log.run_s[:first] > begin_s)]
    waited = earlier[start_s[:first] >= begin_s]
    left_s = start_s + log.run_s - begin_s
    jobs = [
        *(_as_of(trace.jobs[i], begin_s, float(left_s[i])) for i in ran.tolist()),
        *(_as_of(trace.jobs[i], begin_s, float(log.run_s[i])) for i in waited.tolist()),
        *(_as_of(trace.jobs[i], float(log.submit_s[i]), float(log.run_s[i])) for i in range(first, after)),
    ]
    positions = np.concatenate([ran, waited, np.arange(first, after)])
    return LogWindow(replace(trace, jobs=tuple(jobs)), positions, len(ran) + len(waited), begin_s, end_s)


def _as_of(job: TraceJob, submit_s: float, run_s: float) -> TraceJob:
    """Return a job with the submission time and running time that it has in a window; logged iterations are removed."""
    ran_s = max(0.0, job.held_s - run_s)  # before the window
    limit_s = None if job.limit_s is None else max(job.limit_s - ran_s, 0.0)
    return replace(job, submit_s=submit_s, duration_s=run_s, iterations=None, earlier_gpu_s=0.0, limit_s=limit_s)
