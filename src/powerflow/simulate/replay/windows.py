"""Choose windows of a log: consecutive jobs, together with the jobs that ran or waited when the window began.

Simulating all jobs of a long log for all draws would take hours, so each draw has one window. The log is divided into
as many equal parts as there are draws, and each window begins at a random place in its own part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.replay.log import Log
from powerflow.trace.record import Trace, TraceJob


@dataclass(frozen=True, slots=True)
class LogWindow:
    """One window of a log.

    Attributes:
        jobs: First the jobs that ran or waited when the window began, with their remaining work and submitted at its
            start; then the jobs submitted in it.
        carried: Number of the former.
        begin_s, end_s: First and last submission in the window, seconds since the log's first submission.
    """

    jobs: Trace
    carried: int
    begin_s: float
    end_s: float


def windows(trace: Trace, log: Log, start_s: FloatArray, *, draws: int, most_jobs: int, seed: int) -> list[LogWindow]:
    """Return one window for each draw: ``most_jobs`` consecutive jobs, or the whole log if it has no more.

    Args:
        trace: The log.
        log: The log as arrays.
        start_s: ``[J]`` when the site's discipline would have started each job.
        draws: Number of windows.
        most_jobs: Jobs submitted in each.
        seed: Seed of the places.
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
    return LogWindow(replace(trace, jobs=tuple(jobs)), len(ran) + len(waited), begin_s, end_s)


def _as_of(job: TraceJob, submit_s: float, run_s: float) -> TraceJob:
    """Return a job of a window: its work is the time that it runs, whatever iterations are logged."""
    return replace(job, submit_s=submit_s, duration_s=run_s, iterations=None, earlier_gpu_s=0.0)
