"""Describe the jobs of another scheduler, such as Slurm, as PowerFlow hears of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from powerflow.api.records import JobState


@dataclass(frozen=True, slots=True)
class ExternalJob:
    """A job that another scheduler runs now.

    Attributes:
        key: Names this run of the job once for ever: ``slurm:4711@1764000000``.
        id: Number that its scheduler gives it, such as ``4711_3`` for a task of an array.
        name: Name that its owner gave it; "" if it has none.
        user, project: Its owner, and whom it is charged to; "" if not known.
        submitted_s, started_s: When it was submitted, and when it got its GPUs, Unix seconds.
        gpus: Numbers of the GPUs that it holds, as the driver counts them, by short host name.
        why_not: Why its clocks cannot be set; "" if they can.
        protected: True if it must run as fast as it can.
        untouched: True if nobody may set its clocks.
    """

    key: str
    id: str
    name: str
    user: str
    project: str
    submitted_s: float
    started_s: float
    gpus: Mapping[str, tuple[int, ...]]
    why_not: str = ""
    protected: bool = False
    untouched: bool = False


@dataclass(frozen=True, slots=True)
class ExternalEnd:
    """How a run of a job of another scheduler has ended.

    Attributes:
        state: Completed, failed or cancelled.
        text: How it ended, in its scheduler's words.
        ended_s: When it gave back its GPUs, Unix seconds.
    """

    state: JobState
    text: str
    ended_s: float


@dataclass(frozen=True, slots=True)
class ExternalLook:
    """All that another scheduler says at one moment.

    Attributes:
        jobs: The jobs that hold GPUs now, by key.
        ended: Jobs that have ended a short while ago, by key; the scheduler forgets them after some time.
        notes: What could not be told, one line each.
        running: Keys of further jobs that run or are being ended, while it is not told on which GPUs, or how they end.
        requeued_s: When the earlier run of a job has ended that runs again, or waits to, Unix seconds; by the job's key
            up to its ``@``.
    """

    jobs: Mapping[str, ExternalJob]
    ended: Mapping[str, ExternalEnd]
    notes: tuple[str, ...] = ()
    running: Collection[str] = ()
    requeued_s: Mapping[str, float] = field(default_factory=dict)
