"""Stretches of a log that stand for the whole: consecutive jobs, on top of what ran and waited when the first one came.

Simulating every job of a long log under every price of energy, many times over, takes hours. So each draw takes one
stretch; the log is cut into as many equal parts as there are draws, and each draw's stretch begins at a place of its
own part, chosen by seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.replay.log import Log
from powerflow.trace.record import Trace, TraceJob


@dataclass(frozen=True, slots=True)
class LogWindow:
    """The jobs of one stretch.

    Attributes:
        jobs: First those that ran when it begins, with what was left of them, and those that waited, all as if
            submitted at its begin; then those submitted in it.
        carried: How many of them had come before it began.
        begin_s, end_s: First and last submission in it, seconds since the log's first submission.
    """

    jobs: Trace
    carried: int
    begin_s: float
    end_s: float


def windows(trace: Trace, log: Log, start_s: FloatArray, *, draws: int, most_jobs: int, seed: int) -> list[LogWindow]:
    """One stretch for each draw: ``most_jobs`` consecutive jobs, or the whole log where it has no more.

    Args:
        trace: The log.
        log: Its numbers.
        start_s: ``[J]`` when the site's discipline would have started each job.
        draws: How many stretches.
        most_jobs: Jobs submitted in each.
        seed: Of the places.
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
    """The job as it takes part: its work is the time it takes, whatever iterations the log tells."""
    return replace(job, submit_s=submit_s, duration_s=run_s, iterations=None, earlier_gpu_s=0.0)
