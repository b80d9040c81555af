"""Cut a time window into the months of the calendar, in this machine's time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Month:
    """A month, or the part of it that lies in a time window.

    Attributes:
        name: Year and month, such as ``2026-11``.
        since_s, until_s: The part, Unix seconds.
        begins, ends: True if the part begins where the month begins, and ends where it ends.
    """

    name: str
    since_s: float
    until_s: float
    begins: bool
    ends: bool


def months(since_s: float, until_s: float) -> list[Month]:
    """Return the months of a time window (Unix seconds) in order; none if the window is empty.

    Borders are midnights of this machine's time zone (variable ``TZ``), also where clocks change.
    """
    found = []
    at_s = since_s
    while at_s < until_s:
        first = datetime.fromtimestamp(at_s).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        end_s = following.timestamp()
        found.append(Month(f"{first:%Y-%m}", at_s, min(end_s, until_s), at_s <= first.timestamp(), end_s <= until_s))
        at_s = end_s
    return found


def year_of_months(now_s: float) -> float:
    """Return the begin of the month eleven months before the present one, Unix seconds."""
    now = datetime.fromtimestamp(now_s).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    back = now.year * 12 + now.month - 1 - 11
    return max(now.replace(year=back // 12, month=back % 12 + 1).timestamp(), 0.0)
