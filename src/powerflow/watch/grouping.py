"""Name what a line of a summary can be. The command line reads this module at its start, so it imports little."""

from __future__ import annotations

from enum import StrEnum


class GroupBy(StrEnum):
    """What the lines of a summary are."""

    JOB = "job"
    USER = "user"
    ACCOUNT = "account"
    PARTITION = "partition"
    MONTH = "month"
