"""Define the lists in answers: complete lists, and pages of long lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from powerflow.api.records import JobState

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Items(Generic[Item]):
    """Complete list of records of one kind."""

    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of records. Pass ``next`` as ``after`` in the next request; None means that this is the last page."""

    items: Sequence[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[Item]):
    """One page of numbered records, oldest first. Pass its ``after`` in the next request to get later records."""

    items: Sequence[Item]
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """Which events, or entries of the audit, to list. None and an empty sequence select all.

    Attributes:
        job_id: The job that they are about.
        user: Who caused them; of events also the owner of the job.
        node: The node that they are about.
        kinds: Kinds of events, or actions of the audit: a whole name (``cap set``), or its first words (``cap``).
        since_s, until_s: First and last time, in Unix seconds.
    """

    job_id: str | None = None
    user: str | None = None
    node: str | None = None
    kinds: Sequence[str] = ()
    since_s: float | None = None
    until_s: float | None = None


#: Selects all events and entries.
EVERYTHING = RecordFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list. None and an empty sequence select all.

    Attributes:
        states: Only jobs in these states.
        completing: With ``states``: True for jobs that are completing, too, whatever their state.
        user, project: Only jobs of this user, and of this project.
        name: Only jobs whose owners gave them this name.
    """

    states: Sequence[JobState] = ()
    completing: bool = False
    user: str | None = None
    project: str | None = None
    name: str | None = None


#: Selects all jobs.
ALL_JOBS = JobFilter()
