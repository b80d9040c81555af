"""Describe the jobs of a site's own scheduler, and which GPU each of them holds when."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class GpuAddress(NamedTuple):
    """A GPU as readings and owners both name it.

    Attributes:
        node: Short host name of its node, in lower case.
        number: Its number on the node, as `/dev/nvidiaN` counts.
    """

    node: str
    number: int

    def __str__(self) -> str:
        """Return the address as tables show it: ``node7:3``."""
        return f"{self.node}:{self.number}"


@dataclass(frozen=True, slots=True)
class WatchedJob:
    """A job that PowerFlow did not start.

    Attributes:
        key: Names the job once for ever: ``slurm:4711``, or ``slurm:4711@1764000000`` for one start of several.
        id: Number or name that its own scheduler gives it, such as ``4711_3`` for a task of an array.
        name: Name that its user gave it; "" if it is not known.
        user, account, partition: Whom it belongs to and where it runs, as its scheduler calls these; "" if not known.
        submitted_s: When it was submitted, Unix seconds; None if it is not known.
        start_s: When it began to hold its GPUs, Unix seconds.
        end_s: When it gave them back, Unix seconds; None while it holds them, and if the end is not known yet.
        state: How it stands, in its scheduler's word: RUNNING, COMPLETED, FAILED…
        comment: Comment that its user or the site has given it.
    """

    key: str
    id: str
    start_s: float
    end_s: float | None = None
    name: str = ""
    user: str = ""
    account: str = ""
    partition: str = ""
    submitted_s: float | None = None
    state: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Holding:
    """The time in which one job holds one GPU.

    Attributes:
        job: `WatchedJob.key`.
        gpu: The GPU.
        start_s, end_s: From when until when, Unix seconds; ``end_s`` is None while the job holds it.
        slack_s: How far the start may be off, seconds: Slurm cuts off fractions of a second.
        end_slack_s: How far the end may be off, seconds.
        shared: True if other jobs may hold the GPU at the same time (shards, MPS).
    """

    job: str
    gpu: GpuAddress
    start_s: float
    end_s: float | None
    slack_s: float = 1.0
    end_slack_s: float = 1.0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class OwnersLook:
    """What a source of owners says at one moment.

    Attributes:
        time_s: The moment, Unix seconds: what happens later is not in this answer.
        jobs: Jobs that hold GPUs, and jobs that held some a short while ago, by key.
        holdings: Which GPUs they hold or held.
        notes: What could not be told, for the user.
        since_s: The source says who held what from this moment on, Unix seconds; None: only for ``time_s``.
        requeued_s: When the earlier run of a job that runs again, or waits to, has ended, Unix seconds, by the key of
            the job without its start: ``slurm:4711``.
        hidden: GPUs of jobs that the asking user may not see.
        unplaced: Keys of jobs that run, and of whose GPUs not all are told.
        complete: False if jobs that the user may not see can hold any GPU that no job of this look holds.
    """

    time_s: float
    jobs: Mapping[str, WatchedJob]
    holdings: Sequence[Holding]
    notes: Sequence[str] = ()
    since_s: float | None = None
    requeued_s: Mapping[str, float] = field(default_factory=dict)
    hidden: Collection[GpuAddress] = ()
    unplaced: Collection[str] = ()
    complete: bool = True


class Segment(NamedTuple):
    """A time in which the owners of a GPU do not change.

    Attributes:
        jobs: Keys of the jobs that hold it, in order of their names; empty if nobody does.
        start_s, end_s: From when until when, Unix seconds.
        slack_s: How far its start may be off, seconds.
    """

    jobs: tuple[str, ...]
    start_s: float
    end_s: float
    slack_s: float


#: Key of a job that is hidden: somebody holds the GPU, and it is not known who.
HIDDEN = "?"
#: Stands for the jobs of a segment in which it is not known who held the GPU.
UNKNOWN = (HIDDEN,)


def with_unknown(found: Iterable[Segment], gaps: Sequence[tuple[float, float]]) -> list[Segment]:
    """Return segments in which a GPU that nobody is known to hold has an unknown owner where owners were not seen.

    Args:
        found: Segments in order, without gaps.
        gaps: Times in which no source of owners was heard, Unix seconds.
    """
    cut: list[Segment] = []
    edges = sorted({edge for gap in gaps for edge in gap})
    for each in found:
        if each.jobs:
            cut.append(each)
            continue
        inside = [edge for edge in edges if each.start_s < edge < each.end_s]
        for start, end in itertools.pairwise([each.start_s, *inside, each.end_s]):
            unseen = any(begin <= start and end <= finish for begin, finish in gaps)
            cut.append(Segment(UNKNOWN if unseen else (), start, end, each.slack_s if start == each.start_s else 0.0))
    return cut


def segments(holdings: Iterable[Holding], since_s: float, until_s: float) -> list[Segment]:
    """Cut a time span where the owners of one GPU change.

    Args:
        holdings: Holdings of this GPU, in any order; they may overlap.
        since_s, until_s: The span, Unix seconds.

    Returns:
        Segments in order, without gaps, that cover the span. Jobs may share a GPU. Where a job is known, no other is
        hidden: when a hidden one came and went is only known from look to look.
    """
    inside = [
        (max(each.start_s, since_s), min(until_s if each.end_s is None else each.end_s, until_s), each)
        for each in holdings
    ]
    inside = [(start, end, each) for start, end, each in inside if end > start]
    edges = sorted({since_s, until_s, *(start for start, _, _ in inside), *(end for _, end, _ in inside)})
    found: list[Segment] = []
    for start, end in itertools.pairwise(edges):
        held = {each.job for begin, finish, each in inside if begin <= start and finish >= end}
        jobs = tuple(sorted(held - {HIDDEN})) or tuple(held)
        if found and found[-1].jobs == jobs:
            found[-1] = found[-1]._replace(end_s=end)
            continue
        slack_s = [each.slack_s for begin, _, each in inside if begin == start]
        slack_s += [each.end_slack_s for _, finish, each in inside if finish == start]
        found.append(Segment(jobs, start, end, max(slack_s, default=0.0)))
    return found
