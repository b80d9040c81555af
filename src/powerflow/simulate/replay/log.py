"""A log set against what a known discipline would have made of the same jobs: can we reproduce what the site did?

Only a model that gets the past right may say what another past would have been. So the log's jobs, with the log's own
durations on the GPUs they asked for, are queued again under each discipline of `powerflow.simulate.replay.queue`, and
the mean wait and the utilisation that come of it are compared with those that were logged.
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
#: Errors of mean waits are relative to at least this: it takes a scheduler a minute to take notice.
LEAST_WAIT_S = 60.0
#: No saving is claimed when either error is larger.
MOST_ERROR = 0.10


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """What a log says that a queue needs. Arrays are ``[J]``, in order of submission; the first submission is 0 s.

    Attributes:
        submit_s: Submissions.
        run_s: Seconds each ran, runs before a requeue included.
        gpus: GPUs it asked for, and held.
        start_s: When it started; nan where the log does not say.
    """

    submit_s: FloatArray
    run_s: FloatArray
    gpus: IntArray
    start_s: FloatArray

    @property
    def span_s(self) -> float:
        """From the first submission to the last."""
        return float(self.submit_s[-1])

    @property
    def gpu_s(self) -> float:
        """GPU-seconds of all jobs."""
        return float(self.gpus @ self.run_s)


def log_of(trace: Trace, capacity: int) -> Log:
    """The log's numbers.

    Raises:
        InputError: A job has no duration or holds more GPUs than there are; or all jobs came at one moment.
    """
    for job in trace.jobs:
        if not math.isfinite(job.duration_s):
            raise InputError(f"job {job.id} has no duration", where=trace.source, fix="replay needs what jobs took")
    gpus = np.array([job.gpus for job in trace.jobs], np.int64)
    if too_large := int(np.sum(gpus > capacity)):
        raise InputError(
            f"{too_large} jobs hold more than the cluster's {capacity} GPUs (the largest {int(gpus.max())})",
            where=trace.source,
            fix="give the cluster that the log is of",
        )
    submit_s = np.array([job.submit_s for job in trace.jobs])
    wait_s = np.array([math.nan if job.wait_s is None else job.wait_s for job in trace.jobs])
    submit_s -= submit_s[0]
    if submit_s[-1] <= 0:
        raise InputError("all jobs came at one moment", where=trace.source, fix="replay needs days of submissions")
    return Log(submit_s, np.array([job.held_s for job in trace.jobs]), gpus, submit_s + wait_s)


@dataclass(frozen=True, slots=True)
class Match:
    """Logged and replayed over one span of time.

    Attributes:
        start_s: When it begins, seconds since the first submission.
        jobs: Jobs submitted in it.
        wait_logged_s, wait_s: Their mean waits, as logged and as replayed; nan where nobody came.
        utilisation_logged, utilisation: Share of the cluster's GPU-seconds in the span that jobs held.
    """

    start_s: float
    jobs: int
    wait_logged_s: float
    wait_s: float
    utilisation_logged: float
    utilisation: float

    @property
    def wait_error(self) -> float:
        """How far the mean wait is off, as a share of the logged one, or of `LEAST_WAIT_S` where that is more."""
        return abs(self.wait_s - self.wait_logged_s) / max(self.wait_logged_s, LEAST_WAIT_S)

    @property
    def utilisation_error(self) -> float:
        """How far the utilisation is off, as a share of the logged one."""
        off = abs(self.utilisation - self.utilisation_logged)
        return off / self.utilisation_logged if self.utilisation_logged > 0 else math.inf if off else 0.0

    @property
    def error(self) -> float:
        """The larger of the two."""
        return max(self.wait_error, self.utilisation_error)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A discipline's account of the log, beside the log's own.

    Attributes:
        discipline: Its name.
        whole: Over the whole span of submissions.
        weeks: The same by week from the first submission; the last may be shorter.
    """

    discipline: str
    whole: Match
    weeks: Sequence[Match]


def reproductions(log: Log, capacity: int) -> list[Reproduction]:
    """Every discipline against the log, the one with the smallest error first.

    Only jobs whose start the log knows are compared; all take part in the queue. Empty if it knows none.
    """
    known = np.isfinite(log.start_s)
    if not known.any():
        return []
    found = []
    for discipline in DISCIPLINES:
        start_s = start_times(log.submit_s, log.run_s, log.gpus, capacity, discipline)
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
    """Share of the GPU-seconds from ``begin_s`` to ``end_s`` that jobs held."""
    held_s = np.clip(np.minimum(start_s + run_s, end_s) - np.maximum(start_s, begin_s), 0.0, None)
    return float(gpus @ held_s) / (capacity * (end_s - begin_s))


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else math.nan
