"""Read the period of a report: a month, a week, a day or a range of days, from midnight to midnight in a time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from powerflow.errors import InputError
from powerflow.units import HOUR_S

_FIX = "write a month (2026-11), a week (2026-W48), a day (2026-11-20) or days (2026-11-20..2026-11-27)"
_MONTH, _WEEK = re.compile(r"(\d{4})-(\d{2})"), re.compile(r"(\d{4})-W(\d{2})")


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """The time that a report is about.

    Attributes:
        name: The period as the user wrote it.
        since_s, until_s: Its first and last moment, in Unix seconds; it ends now if it is not over.
        over: True if the period is over.
        zone: The time zone of its days; None for that of this machine.
    """

    name: str
    since_s: float
    until_s: float
    over: bool
    zone: tzinfo | None

    def moment(self, unix_s: float) -> datetime:
        """Return a time in the zone of the period."""
        return datetime.fromtimestamp(unix_s, self.zone) if self.zone else datetime.fromtimestamp(unix_s).astimezone()

    @property
    def split_hours(self) -> bool:
        """True if the period begins or ends within an hour of UTC; energy is kept by such hours."""
        return bool(self.since_s % HOUR_S) or (self.over and bool(self.until_s % HOUR_S))


def report_period(text: str, zone: tzinfo | None, now_s: float) -> ReportPeriod:
    """Read a period such as ``2026-11``, ``2026-W48``, ``2026-11-20`` or ``2026-11-20..2026-11-27`` (both days in it).

    Args:
        text: The period.
        zone: Time zone of its days; None for that of this machine.
        now_s: The present, in Unix seconds.

    Raises:
        InputError: The text has none of these forms, or the period lies in the future.
    """
    first, after = _days(text.strip())
    since_s, end_s = _midnight(first, zone), _midnight(after, zone)
    if since_s >= now_s:
        raise InputError(f"{text} has not begun yet", where="--period", fix="give a period of the past")
    return ReportPeriod(text.strip(), since_s, min(end_s, now_s), end_s <= now_s, zone)


def _days(text: str) -> tuple[date, date]:
    """Return the first day of a period, and the day after its last one."""
    try:
        if found := _MONTH.fullmatch(text):
            first = date(int(found[1]), int(found[2]), 1)
            return first, (first + timedelta(days=31)).replace(day=1)
        if found := _WEEK.fullmatch(text):
            first = date.fromisocalendar(int(found[1]), int(found[2]), 1)
            return first, first + timedelta(days=7)
        begin, dots, end = text.partition("..")
        first, last = _day(begin), _day(end if dots else begin)
        after = last + timedelta(days=1)
    except (ValueError, OverflowError):
        raise InputError(f"{text!r} is not a period", where="--period", fix=_FIX) from None
    if last < first:
        raise InputError("the period ends before it begins", where="--period", fix=f"write {last}..{first}")
    return first, after


def _day(text: str) -> date:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):  # fromisoformat takes other forms, too
        raise ValueError(text)
    return date.fromisoformat(text)


def _midnight(day: date, zone: tzinfo | None) -> float:
    return max(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp(), 0.0)
