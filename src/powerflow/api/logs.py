"""Define the records of the logs of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Part of a rank's log: the text, and the offset of the byte after this text.

    ``ended`` is True if nothing follows this text: the log will not grow any more. ``dropped`` is True if output before
    this text was asked for, but is not kept any more.
    """

    rank: str
    text: str
    offset: int
    ended: bool
    dropped: bool


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One of the logs that together are the log of a job: that of a rank which is, or was, the first of its job.

    Attributes:
        rank: Name of the rank.
        start: Number of the start, from 1: how often the job had begun without any rank when the rank was launched.
        node: Node of the rank.
        started_s: Start of the rank, Unix seconds.
        ended: True if the rank does not run any more, so that its log will not grow.
    """

    rank: str
    start: int
    node: str
    started_s: float
    ended: bool


@dataclass(frozen=True, slots=True)
class JobLogs:
    """Logs that together are the log of a job, oldest first; ``ended`` is True if no further log will come."""

    items: Sequence[LogRecord]
    ended: bool
