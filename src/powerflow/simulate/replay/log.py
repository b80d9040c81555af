"""Reproduce a log: find the queueing discipline (rule that starts jobs) that starts the jobs as the log says.

A model can predict other outcomes only if it reproduces the real outcome. So the jobs of the log, with their logged
durations and requested GPUs, are queued under each discipline of `powerflow.simulate.replay.queue`. Then the mean wait
and the utilisation are compared with the log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.simulate.replay.queue import DISCIPLINES, start_times
from powerflow.trace.record import Trace
from powerflow.units import DAY_S

WEEK_S = 7 * DAY_S
#: Errors of mean waits are relative to at least this, because schedulers react within about a minute.
LEAST_WAIT_S = 60.0
#: Largest error of wait and utilisation with which savings are claimed.
MOST_ERROR = 0.10


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """The jobs of a log as arrays, ``[J]``, in order of submission. Times count from the first submission, in seconds.

    Attributes:
        submit_s: Time at which each job was submitted.
        run_s: Seconds that each job ran, including its runs before a requeue.
        gpus: Number of GPUs that each job requested.
        start_s: Time at which each job started; nan if the log does not say.
        limit_s: Time limit of each job, seconds; nan if the log does not say.
    """

    submit_s: FloatArray
    run_s: FloatArray
    gpus: IntArray
    start_s: FloatArray
    limit_s: FloatArray

    @property
    def span_s(self) -> float:
        """Seconds from the first submission of the log to the last."""
        return float(self.submit_s[-1])

    @property
    def gpu_s(self) -> float:
        """GPU-seconds of all jobs of the log together."""
        return float(self.gpus @ self.run_s)


def log_of(trace: Trace, capacity: int) -> Log:
    """Return the jobs of a trace as arrays.

    Raises:
        InputError: A job has no duration, allows other global batches, or has more than ``capacity`` GPUs; or all jobs
            were submitted at one time.
    """
    for job in trace.jobs:
        if not math.isfinite(job.duration_s):
            raise InputError(
                f"job {job.id} has no duration",
                where=trace.source,
                fix="give every job a duration, or leave the job out",
            )
        if job.batch_range is not None:
            raise InputError(
                f"job {job.id} allows other global batches, but on a real cluster PowerFlow never changes them",
                where=trace.source,
                fix="leave out the columns global_batch_min, global_batch_max and noise_scale",
            )
    gpus = np.array([job.gpus for job in trace.jobs], np.int64)
    if too_large := int(np.sum(gpus > capacity)):
        raise InputError(
            f"{too_large} jobs hold more than the cluster's {capacity} GPUs (the largest {int(gpus.max())})",
            where=trace.source,
            fix="give the cluster from which the log comes",
        )
    submit_s = np.array([job.submit_s for job in trace.jobs])
    wait_s = np.array([math.nan if job.wait_s is None else job.wait_s for job in trace.jobs])
    limit_s = np.array([math.nan if job.limit_s is None else job.limit_s for job in trace.jobs])
    submit_s -= submit_s[0]
    if submit_s[-1] <= 0:
        raise InputError("all jobs have one submission time", where=trace.source, fix="give a log of several days")
    return Log(submit_s, np.array([job.held_s for job in trace.jobs]), gpus, submit_s + wait_s, limit_s)


@dataclass(frozen=True, slots=True)
class Match:
    """Comparison of a log with its replay, for the jobs submitted in one period.

    Attributes:
        start_s: Start of the period, seconds since the first submission of the log.
        jobs: Number of jobs submitted in the period.
        wait_logged_s, wait_s: Mean wait of these jobs, as logged and as replayed; nan without jobs.
        utilisation_logged, utilisation: Share of the cluster's GPU-seconds that jobs held, as logged and as replayed.
    """

    start_s: float
    jobs: int
    wait_logged_s: float
    wait_s: float
    utilisation_logged: float
    utilisation: float

    @property
    def wait_error(self) -> float:
        """Error of the replayed mean wait: its difference to the logged mean wait, as a share of the logged mean wait.

        If the logged mean wait is less than `LEAST_WAIT_S`, the error is a share of `LEAST_WAIT_S` instead.
        """
        return abs(self.wait_s - self.wait_logged_s) / max(self.wait_logged_s, LEAST_WAIT_S)

    @property
    def utilisation_error(self) -> float:
        """Error of the replayed utilisation: its difference to the logged one, as a share of the logged utilisation."""
        off = abs(self.utilisation - self.utilisation_logged)
        return off / self.utilisation_logged if self.utilisation_logged > 0 else math.inf if off else 0.0

    @property
    def error(self) -> float:
        """The larger one of two errors: the error of the mean wait, and the error of the utilisation."""
        return max(self.wait_error, self.utilisation_error)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Comparison of a log with its replay under one discipline (rule by which a queue starts jobs).

    Attributes:
        discipline: Name of the discipline.
        whole: Comparison over the whole log.
        weeks: Comparison for each week from the first submission; the last period may be shorter.
    """

    discipline: str
    whole: Match
    weeks: Sequence[Match]


def reproductions(log: Log, capacity: int) -> list[Reproduction]:
    """Replay a log under each discipline (rule by which a queue starts jobs), and compare each replay with the log.

    All jobs are queued, but only the jobs with a logged start are compared. If no job has a logged start, the result is
    empty.

    Returns:
        One comparison for each discipline; the discipline with the smallest error comes first.
    """
    known = np.isfinite(log.start_s)
    if not known.any():
        return []
    found = []
    limited = bool(np.isfinite(log.limit_s).any())
    for discipline in DISCIPLINES:
        if discipline == "easy-limits" and not limited:
            continue
        start_s = start_times(log.submit_s, log.run_s, log.gpus, capacity, discipline, log.limit_s)
        edges = [*np.arange(0.0, log.span_s, WEEK_S).tolist(), log.span_s]
        spans = list(pairwise(edges))
        weeks = [_match(log, start_s, known, capacity, begin_s, end_s) for begin_s, end_s in spans]
        found.append(Reproduction(discipline, _match(log, start_s, known, capacity, 0.0, log.span_s), weeks))
    return sorted(found, key=lambda one: one.whole.error)


def _match(
    log: Log, start_s: FloatArray, known: npt.NDArray[np.bool_], capacity: int, begin_s: float, end_s: float
) -> Match:
    last = end_s >= log.span_s  # the last job belongs to the last span
    came = known & (log.submit_s >= begin_s) & ((log.submit_s < end_s) | last)
    return Match(
        begin_s,
        int(came.sum()),
        _mean(log.start_s[came] - log.submit_s[came]),
        _mean(start_s[came] - log.submit_s[came]),
        utilisation(log.start_s[known], log.run_s[known], log.gpus[known], capacity, begin_s, end_s),
        utilisation(start_s[known], log.run_s[known], log.gpus[known], capacity, begin_s, end_s),
    )


def utilisation(
    start_s: FloatArray, run_s: FloatArray, gpus: IntArray, capacity: int, begin_s: float, end_s: float
) -> float:
    """Return the share of all GPU-seconds between ``begin_s`` and ``end_s`` that jobs held."""
    held_s = np.clip(np.minimum(start_s + run_s, end_s) - np.maximum(start_s, begin_s), 0.0, None)
    return float(gpus @ held_s) / (capacity * (end_s - begin_s))


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else math.nan
