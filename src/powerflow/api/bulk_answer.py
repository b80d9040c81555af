"""Define the answer to a request that changes the state of several jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from powerflow.api.records import JobRecord


@dataclass(frozen=True, slots=True)
class NotChanged:
    """A job whose state was not changed: its id, why, and the exit code of a command that asked for it alone."""

    job_id: str
    why: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class JobsChanged:
    """Jobs that have the state that was asked for, and those that have not."""

    jobs: Sequence[JobRecord]
    refused: Sequence[NotChanged]
