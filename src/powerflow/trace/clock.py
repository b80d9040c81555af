"""Convert local times of a log to seconds since the epoch (UTC), with daylight saving time.

Most logs print local time without naming the zone. A `Clock` knows the zone and counts uncertain times: those that
occurred twice (clocks went back) and those that never existed (clocks went forward).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from powerflow.errors import InputError
from powerflow.trace.fields import Unusable, checked_s, clip


def zone_of(name: str) -> tzinfo:
    """Return the time zone with an IANA name ("America/Los_Angeles"), "UTC", or an offset ("+08:00").

    Raises:
        InputError: There is no such zone.
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
    """Reads the dates of one log in one time zone.

    Attributes:
        zone_name: The zone as the user or the format names it.
        assumed: True if the zone is the format's default and not given by the user.
    """

    def __init__(self, zone_name: str, *, assumed: bool) -> None:
        self.zone_name = zone_name
        self.assumed = assumed
        self._zone = zone_of(zone_name)
        self._naive = self._twice = self._never = 0

    def epoch_s(self, value: str, name: str, *, not_before_s: float | None = None) -> float:
        """Convert an ISO date and time to seconds since 1970-01-01 UTC.

        A date with its own offset uses that; any other is local time. Of a local time that occurred twice the first is
        taken, unless it lies before ``not_before_s`` (no job ends before it starts).

        Raises:
            Unusable: It is not a date, or lies before 1970.
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
        """Return the assumptions about times, as sentences for the user; empty if every date has its own offset."""
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
