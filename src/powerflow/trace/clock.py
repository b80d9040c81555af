"""Local times of a log as seconds since the epoch, UTC, daylight saving included.

Most logs print local time without saying so. A ``Clock`` knows the zone and counts what the zone makes uncertain: times
that occurred twice (clocks went back) and times that never were (clocks went forward).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from powerflow.errors import InputError
from powerflow.trace.fields import Unusable, checked_s, clip


def zone_of(name: str) -> tzinfo:
    """A time zone by its IANA name ("America/Los_Angeles"), "UTC", or an offset ("+08:00").

    Raises:
        InputError: there is no such zone.
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
            f"time zone {clip(name)} is not known here",
            where="--tz",
            fix='give an IANA name or an offset like "-08:00"',
        ) from None


class Clock:
    """Reads one log's dates in one zone.

    Attributes:
        zone_name: The zone as named.
        assumed: Whether the zone is the reader's assumption rather than the caller's word.
    """

    def __init__(self, zone_name: str, *, assumed: bool) -> None:
        self.zone_name = zone_name
        self.assumed = assumed
        self._zone = zone_of(zone_name)
        self._naive = self._twice = self._never = 0

    def epoch_s(self, value: str, name: str, *, not_before_s: float | None = None) -> float:
        """Seconds since 1970-01-01 UTC of an ISO date and time.

        A date that carries its own offset is taken at its word; any other is local time. A local time that occurred
        twice is the first of the two, unless that would lie before ``not_before_s`` (no job ends before it starts).

        Raises:
            Unusable: it is no date, or lies before 1970.
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
        if earlier < later:  # PEP 495: in the gap, fold 0 reads with the offset from before it
            self._never += 1
            return first
        self._twice += 1
        return second if not_before_s is not None and first.timestamp() < not_before_s else first

    def notes(self) -> list[str]:
        """What was assumed about time, in plain words; empty if every date carried its own offset."""
        if not self._naive:
            return []
        said = [f"times without an offset read as {self.zone_name}" + (" (assumed; --tz changes it)" * self.assumed)]
        if self._twice:
            said.append(
                f"{self._twice} local times occurred twice (clocks went back); read as the first where possible"
            )
        if self._never:
            said.append(f"{self._never} local times never were (clocks went forward); read with the offset from before")
        return said
