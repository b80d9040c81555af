"""Read which tasks an array of jobs has, and how many of them may run at once."""

from __future__ import annotations

import re
from typing import NamedTuple

#: Most tasks of one array, and the highest number of a task.
MOST_TASKS, HIGHEST_TASK = 10_000, 999_999
#: Form of an array, as in ``sbatch --array``: ranges with steps, numbers, and the most tasks that may run at once.
TEXT = r"[0-9]{1,6}(-[0-9]{1,6}(:[0-9]{1,6})?)?(,[0-9]{1,6}(-[0-9]{1,6}(:[0-9]{1,6})?)?)*(%[0-9]{1,6})?"


class JobArray(NamedTuple):
    """Task numbers of an array, ascending, and the most tasks that may run at once (None: all)."""

    tasks: tuple[int, ...]
    at_once: int | None


def read_array(text: str) -> JobArray:
    """Return the tasks of an array such as ``0-9``, ``1,3,8``, ``0-20:5`` or ``1-100%4``.

    Raises:
        ValueError: The text is not an array. The message says why.
    """
    if not re.fullmatch(TEXT, text, re.ASCII):
        raise ValueError(f"cannot read {text[:80]!r} as an array")
    ranges, _, at_once = text.partition("%")
    tasks: set[int] = set()
    for part in ranges.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        if int(last or first) < int(first) or (step and not int(step)):
            raise ValueError(f"{part} has no task")
        tasks.update(range(int(first), int(last or first) + 1, int(step or 1)))
    if len(tasks) > MOST_TASKS:
        raise ValueError(f"{len(tasks)} tasks are too many: an array has at most {MOST_TASKS}")
    if at_once and not int(at_once):
        raise ValueError("no task may run at once")
    return JobArray(tuple(sorted(tasks)), int(at_once) if at_once else None)
