"""Read which other jobs a job waits for before it may start."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

#: Form of a dependency, as in ``sbatch --dependency``: kinds of conditions, each with the numbers of jobs.
TEXT = r"after(any|ok|notok)?(:[1-9][0-9]{0,8})+(,after(any|ok|notok)?(:[1-9][0-9]{0,8})+)*"
#: Most jobs that one job waits for.
MOST_NEEDS = 1000


class Condition(StrEnum):
    """What another job must have done before a job may start."""

    STARTED = "after"  # or ended without a start
    ENDED = "afterany"
    COMPLETED = "afterok"
    FAILED = "afternotok"  # or was cancelled


class Need(NamedTuple):
    """One condition, and the number of the job (or array) that must meet it."""

    condition: Condition
    job_id: str


def read_dependency(text: str) -> tuple[Need, ...]:
    """Return the conditions of a dependency such as ``afterok:12:13,after:14``. All must be met.

    Raises:
        ValueError: The text is not a dependency. The message says why.
    """
    if not re.fullmatch(TEXT, text, re.ASCII):
        raise ValueError(f"cannot read {text[:80]!r} as a dependency")
    needs = [
        Need(Condition(kind), job_id)
        for part in text.split(",")
        for kind, *numbers in [part.split(":")]
        for job_id in numbers
    ]
    if len(needs) > MOST_NEEDS:
        raise ValueError(f"a job can wait for at most {MOST_NEEDS} jobs, not {len(needs)}")
    return tuple(dict.fromkeys(needs))


def numbered(text: str, number_of: Callable[[str], str]) -> str:
    """Return a dependency with numbers instead of names: ``afterok:train:13`` becomes ``afterok:12:13``.

    Names cannot contain ``,`` and ``:``. A part that is not a condition on jobs stays as it is.

    Args:
        text: The dependency. It may be wrong: `read_dependency` says so.
        number_of: Function from the number or name of a job to its number.
    """
    parts = []
    for part in text.split(","):
        kind, *jobs = part.split(":")
        known = kind in set(Condition)
        parts.append(":".join([kind, *(number_of(job) if known and job else job for job in jobs)]))
    return ",".join(parts)
