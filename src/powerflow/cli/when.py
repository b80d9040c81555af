"""Read and write dates and times as people write them, in the machine's time zone."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from datetime import time as TimeOfDay

from powerflow.errors import InputError
from powerflow.units import length_of, parse_length

#: Unix seconds of the year 9999, the last year in Python's calendar.
_CALENDAR_S = 253_370_764_800.0


def coming(text: str, where: str, now_s: float) -> float:
    """Read a future time as Unix seconds: ``17:00`` (the next one), ``2026-11-01 17:00``, or ``+15m`` from now.

    Raises:
        InputError: The text has none of these forms.
    """
    text = text.strip()
    if text.startswith("+"):
        return now_s + parse_length(text[1:], where)
    try:
        if "-" not in text:
            now = datetime.fromtimestamp(now_s)
            # by day and time of day, not by seconds: days on which clocks change are shorter or longer
            today = datetime.combine(now.date(), TimeOfDay.fromisoformat(text))
            return (today if today > now else today + timedelta(days=1)).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InputError(f"{text!r} is not a time", where=where, fix="try 17:00, '2026-11-01 17:00' or +15m") from None


def past(text: str, where: str, now_s: float) -> float:
    """Read a past time as Unix seconds: ``2026-11-01``, ``2026-11-01 17:00`` or ``24h`` (ago).

    Raises:
        InputError: The text has none of these forms.
    """
    if (ago_s := length_of(text)) is not None:
        return max(now_s - ago_s, 0.0)
    try:
        return max(datetime.fromisoformat(text.strip()).timestamp(), 0.0)
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{text!r} is not a time", where=where, fix="write 2026-11-01, 2026-11-01 17:00 or 24h"
        ) from None


def window(since: str, until: str | None, now_s: float) -> tuple[float, float]:
    """Read the options ``--since`` and ``--until`` as two Unix times; the window ends now if ``until`` is None.

    Raises:
        InputError: A text is not a time, or the window ends before it begins.
    """
    since_s = past(since, "--since", now_s)
    until_s = now_s if until is None else past(until, "--until", now_s)
    if since_s > until_s:
        raise InputError("the window ends before it begins", where="--until", fix="give a later time")
    return since_s, until_s


def minute(unix_s: float) -> str:
    """Format a time to the minute, for tables."""
    return stamp(unix_s).rpartition(":")[0] or stamp(unix_s)


def stamp(unix_s: float) -> str:
    """Format a time to the second; in words if it is after year 9999 (as the end of a job with 10¹⁵ steps may be)."""
    if not abs(unix_s) < _CALENDAR_S:
        return "a time after the last year of the calendar"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
