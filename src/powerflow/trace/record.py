"""Define the job record that every log reader returns."""

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
    """Job as recorded in a log.

    Attributes:
        id: Its name in the log.
        submit_s: Submission in seconds: UTC epoch if the log has dates, else from the log's own origin.
        duration_s: Seconds it ran on ``gpus`` GPUs.
        gpus: GPUs it requested (and held).
        wait_s: Seconds it waited in the queue, if logged.
        model: Model family (a name of the catalogue), if logged.
        global_batch: Samples per iteration over all GPUs, if logged.
        iterations: Iterations it completed, if logged.
        project: User, account or virtual cluster.
        name: The job's own name, if logged; jobs with the same name are similar.
        outcome: How it ended.
        earlier_gpu_s: GPU-seconds held by its earlier runs before it was requeued, if the log has separate runs.
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
        """Seconds per iteration as logged: duration over iterations; None if one of them is unknown."""
        if self.iterations is None or not math.isfinite(self.duration_s):
            return None
        return self.duration_s / self.iterations

    @property
    def held_s(self) -> float:
        """Seconds for which it held its GPUs, in all its runs together."""
        return self.duration_s + self.earlier_gpu_s / self.gpus


@dataclass(frozen=True, slots=True)
class Skipped:
    """Line of a log that gave no job, with the reason."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Log as read: its jobs in order of submission, and the skipped lines.

    Attributes:
        source: The source of the jobs: a path, or "synthetic …".
        format: Name of the format that was read.
        jobs: Jobs by ``(submit_s, position in the file)``.
        skipped: Lines that gave no job, with reasons.
        notes: Assumptions made while reading (time zone, unit, …), as sentences.
    """

    source: str
    format: str
    jobs: Sequence[TraceJob]
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = field(default=())
