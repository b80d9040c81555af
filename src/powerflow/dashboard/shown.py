"""Format numbers and times of records for the pages, with the mark ᵉ on values that come from a model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo

from powerflow import units

#: Mark of values of emulated GPUs.
MARK = "ᵉ"
#: Unix seconds of the year 9999, the last one of Python's calendar.
_CALENDAR_S = 253_370_764_800.0


def watts(value: float | None, emulated: bool) -> str:
    """Format watts; a dash for None."""
    return units.NOTHING if value is None else units.power(value) + (MARK if emulated else "")


def joules(value: float | None, emulated: bool) -> str:
    """Format an energy; a dash for None."""
    return units.NOTHING if value is None else units.energy(value) + (MARK if emulated else "")


def megahertz(value: float | None) -> str:
    """Format a clock; a dash for None."""
    return units.NOTHING if value is None else f"{value:.0f} MHz"


def moment(unix_s: float, zone: tzinfo = UTC, name: str = "UTC") -> str:
    """Format a time with its time zone: the page cannot know its reader's. A dash if it is beyond the calendar."""
    if not 0 <= unix_s < _CALENDAR_S:
        return units.NOTHING
    return f"{datetime.fromtimestamp(unix_s, zone):%Y-%m-%d %H:%M} {name}"


def instant(unix_s: float) -> str:
    """Format a time to the second, for lists of what happened."""
    text = moment(unix_s)
    return text if text == units.NOTHING else f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def machine_time(unix_s: float | None) -> str:
    """Format a time for the attribute ``datetime`` of a ``time`` element; "" for None."""
    if unix_s is None or not 0 <= unix_s < _CALENDAR_S:
        return ""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def away(seconds: float, words: Mapping[str, str]) -> str:
    """Format how far a time is away from now, in words: in 12 min, 3 h ago."""
    rounded_s = round(seconds)  # a time changes as seldom as possible: who watches the page gets each change
    if not rounded_s:
        return words["soon"]
    if rounded_s > 0:
        return words["in_time"].format(time=units.duration(rounded_s))
    return words["ago"].format(time=units.duration(-rounded_s))
