"""Say for whom completion times would change: users, and jobs that the site calls important."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.poc.equal import further
from powerflow.trace.record import Trace, TraceJob

#: Columns of a log that can say which jobs are important.
COLUMNS = ("partition", "qos", "account", "user")
#: Groups with fewer jobs than this in all draws together are not named: chance decides about them.
LEAST_JOBS = 10


@dataclass(frozen=True, slots=True)
class GroupChange:
    """How the completion time of a group of jobs would change.

    Attributes:
        name: Name of the user, or of the group.
        jobs: Number of its jobs in the log.
        was_s: Mean completion time of its jobs without PowerFlow, as reproduced, seconds.
        later_s: By how much later its jobs would end on average, seconds; negative if earlier.
    """

    name: str
    jobs: int
    was_s: float
    later_s: Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Completion times of the jobs of one draw.

    Attributes:
        positions: ``[J]`` position of each job in the log.
        site_s, ours_s: ``[J]`` completion time without and with PowerFlow, seconds.
    """

    positions: IntArray
    site_s: FloatArray
    ours_s: FloatArray


def changes(trace: Trace, draws: Sequence[Times]) -> list[GroupChange]:
    """Return how completion times of users would change; the user who would wait longest is first.

    If the log has no users, projects take their place. A group with few jobs is left out.
    """
    groups: dict[str, list[int]] = {}
    for i, job in enumerate(trace.jobs):
        groups.setdefault(job.user or job.project, []).append(i)
    found = [change_of(name, mine, draws) for name, mine in groups.items() if name]
    return sorted((each for each in found if each is not None), key=lambda each: (-each.later_s.mean, each.name))


def change_of(name: str, jobs: Sequence[int], draws: Sequence[Times]) -> GroupChange | None:
    """Return how the completion time of some jobs would change; None if too few of them were simulated.

    Args:
        name: Name of the group.
        jobs: Positions of its jobs in the log.
        draws: Completion times of the jobs of each draw.
    """
    sums = []
    for draw in draws:
        mine = np.isin(draw.positions, jobs)
        if mine.any():
            sums.append((int(mine.sum()), float(draw.site_s[mine].sum()), float(draw.ours_s[mine].sum())))
    if len(sums) < 2 or sum(count for count, *_ in sums) < LEAST_JOBS:
        return None
    count, was_s, is_s = np.array(sums, float).T
    mean = float((is_s - was_s).sum() / count.sum())
    without = [float(((is_s - was_s).sum() - is_s[i] + was_s[i]) / (count.sum() - count[i])) for i in range(len(sums))]
    half = further(mean, without)
    return GroupChange(name, len(jobs), float(was_s.sum() / count.sum()), Estimate(mean, mean - half, mean + half))


def important(trace: Trace, named: Sequence[str]) -> list[int]:
    """Return the positions of the jobs that the site calls important.

    Args:
        trace: The log.
        named: Conditions such as ``qos=high``; a job that meets one of them is important. A column is one of
            `COLUMNS`.

    Raises:
        InputError: A condition has another form, or no job meets it.
    """
    found: set[int] = set()
    for text in named:
        column, _, value = text.partition("=")
        if column not in COLUMNS or not value:
            raise InputError(
                f"{text!r} is not a column and its value",
                where="--high",
                fix=f"write qos=high; columns: {', '.join(COLUMNS)}",
            )
        mine = [i for i, job in enumerate(trace.jobs) if _value(job, column) == value]
        if not mine:
            raise InputError(f"no job of the log has {text}", where="--high", fix=_had(trace, column))
        found.update(mine)
    return sorted(found)


def _value(job: TraceJob, column: str) -> str:
    return str(getattr(job, column)) or (job.project if column == "account" else "")


def _had(trace: Trace, column: str) -> str:
    counts = Counter(value for job in trace.jobs if (value := _value(job, column)))
    if not counts:
        return f"the log has no {column}: add it to sacct -o"
    return f"it has {', '.join(value for value, _ in counts.most_common(5))}"


def share_later(jobs: Sequence[int], draws: Sequence[Times]) -> float:
    """Return the share of some jobs that would end later by more than a minute and 1 %; nan if none was simulated."""
    late = seen = 0
    for draw in draws:
        mine = np.isin(draw.positions, jobs)
        more_s = draw.ours_s[mine] - draw.site_s[mine]
        late += int(np.sum((more_s > 60.0) & (more_s > 0.01 * draw.site_s[mine])))
        seen += int(mine.sum())
    return late / seen if seen else math.nan
