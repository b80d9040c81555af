"""Convert the dates and times in a log to seconds since 1970 (UTC), with daylight saving time.

Most logs have local times without a time zone. A `Clock` knows the zone. It also counts uncertain times: local times
that occurred twice (clocks went back), and local times that never existed (clocks went forward).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from powerflow.errors import InputError
from powerflow.trace.fields import Unusable, checked_s, clip


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its IANA name ("America/Los_Angeles"), "UTC", or an offset ("+08:00").

    Raises:
        InputError: No time zone has this name.
    """
    if name in {"UTC", "Z"}:
        return UTC
    try:
        if name[:1] in {"+", "-"}:
            hours, _, minutes = name[1:].partition(":")
            offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
            return timezone(-offset if name[0] == "-" else offset)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, OverflowError):
        raise InputError(
            f"time zone {clip(name)} is unknown",
            where="--tz",
            fix='give an IANA name or an offset like "-08:00"',
        ) from None


class Clock:
    """Converts the dates and times of one log from its time zone to UTC.

    Attributes:
        zone_name: Name of the time zone, as the user or the log format gives it.
        assumed: True if the zone is the default of the log format, False if the user gave it.
    """

    def __init__(self, zone_name: str, *, assumed: bool) -> None:
        self.zone_name = zone_name
        self.assumed = assumed
        self._zone = zone_of(zone_name)
        self._naive = self._twice = self._never = 0

    def epoch_s(self, value: str, name: str, *, not_before_s: float | None = None) -> float:
        """Convert an ISO date and time to seconds since 1970-01-01 UTC.

        A date without an offset is local time. If a local time occurred twice, the first occurrence is used, unless it
        lies before ``not_before_s`` (for the end of a job, this is the start of the job).

        Raises:
            Unusable: ``value`` is not a date, or lies before 1970.
        """
        try:
            moment = datetime.fromisoformat(value.strip())
            if moment.tzinfo is None:
                moment = self._localise(moment, not_before_s)
            return checked_s(moment.timestamp(), name)
        except (ValueError, OverflowError, OSError):
            raise Unusable(f"{name} is not a date ({clip(value)})") from None

    def _localise(self, moment: datetime, not_before_s: float | None) -> datetime:
        self._naive += 1
        first, second = moment.replace(tzinfo=self._zone), moment.replace(tzinfo=self._zone, fold=1)
        earlier, later = first.utcoffset(), second.utcoffset()
        if earlier == later or earlier is None or later is None:
            return first
        if earlier < later:  # PEP 495: a time in the gap is read with the offset before it
            self._never += 1
            return first
        self._twice += 1
        return second if not_before_s is not None and first.timestamp() < not_before_s else first

    def notes(self) -> list[str]:
        """Return the assumptions about times, as sentences for the user; empty if every date had its own offset."""
        if not self._naive:
            return []
        said = [
            f"times without an offset are read as {self.zone_name}" + (" (assumed; --tz changes it)" * self.assumed)
        ]
        if self._twice:
            said.append(
                f"{self._twice} local times occurred twice (clocks went back); read as the first where possible"
            )
        if self._never:
            said.append(f"{self._never} local times do not exist (clocks went forward); read with the offset before it")
        return said
