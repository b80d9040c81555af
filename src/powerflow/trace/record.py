"""One job of a log, as every reader gives it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class JobOutcome(StrEnum):
    """How a logged job ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TraceJob:
    """What a log says of a job.

    Attributes:
        id: Its name in the log.
        submit_s: Submission, seconds; UTC epoch where the log gives dates, else the log's own origin.
        duration_s: Seconds it ran on ``gpus`` GPUs.
        gpus: GPUs it asked for (and held).
        wait_s: Seconds it waited in the queue, where the log knows.
        model: Model family (a name of the catalogue), where the log knows.
        global_batch: Samples per iteration over all GPUs, where the log knows.
        iterations: Iterations it did, where the log knows.
        project: User, account or virtual cluster.
        name: The job's own name, where the log has one: runs of one name are alike.
        outcome: How it ended.
        earlier_gpu_s: GPU-seconds that earlier runs of it held before it was requeued, where the log tells runs apart.
    """

    id: str
    submit_s: float
    duration_s: float
    gpus: int
    wait_s: float | None = None
    model: str | None = None
    global_batch: int | None = None
    iterations: float | None = None
    project: str = ""
    name: str = ""
    outcome: JobOutcome = JobOutcome.UNKNOWN
    earlier_gpu_s: float = 0.0

    @property
    def measured_step_s(self) -> float | None:
        """Seconds per iteration as logged: duration over iterations; None where the log lacks one of them."""
        if self.iterations is None or not math.isfinite(self.duration_s):
            return None
        return self.duration_s / self.iterations

    @property
    def held_s(self) -> float:
        """Seconds that it held its GPUs, all its runs together: what it took from the cluster."""
        return self.duration_s + self.earlier_gpu_s / self.gpus


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line of a log that gave no job: where, and why."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A log as read: its jobs in order of submission, and an account of what was left out.

    Attributes:
        source: What was read (a path, or "synthetic …").
        format: Which reader read it.
        jobs: Jobs by ``(submit_s, position in the file)``.
        skipped: Lines that gave no job, with the reason of each.
        notes: What a reader assumed (time zone, unit, …), in plain words.
    """

    source: str
    format: str
    jobs: Sequence[TraceJob]
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = field(default=())
