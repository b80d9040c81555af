"""Read and evaluate signals: electricity tariffs and carbon intensities over time, as step functions.

A value is valid from its time until the time of the next value, but not longer than ``max_age_s``. At all other times,
a fallback value is used, and results say so.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from powerflow.arrays import BoolArray, FloatArray
from powerflow.energy.kinds import MAX_AGE_S, MOST_VALUE, Kind, unit_of
from powerflow.errors import InputError
from powerflow.units import DAY_S, HOUR_S, prose

#: Bounds of the factor by which signals multiply λ_E.
LEAST_FACTOR, MOST_FACTOR = 0.25, 4.0

#: A signal is compared with its mean over this time.
COMPARED_S = 7 * DAY_S


@dataclass(frozen=True, eq=False)
class Signal:
    """Tariff or carbon intensity over time, as a step function.

    Attributes:
        kind: ``tariff`` (money per kWh; negative values occur in markets and are allowed) or ``carbon`` (g CO2 per
            kWh).
        source: Where the signal comes from, for reports.
        time_s: ``[M]`` start of each value's validity, Unix seconds, ascending.
        value: ``[M]`` values.
        fallback: Value used where the series has none.
        max_age_s: Longest validity of a value; ``inf`` for a constant.
        currency: Currency of a tariff; "" if it is not known.
    """

    kind: Kind
    source: str
    time_s: FloatArray
    value: FloatArray
    fallback: float
    max_age_s: float = MAX_AGE_S
    currency: str = ""

    def __post_init__(self) -> None:
        where = f"{self.kind} signal"
        if not math.isfinite(self.fallback):
            raise InputError(
                f"its fallback {prose(self.fallback, 6)} is not a finite number", where=where, fix=f"give {self.unit}"
            )
        if self.kind == "carbon" and self.fallback < 0:
            raise InputError("its fallback is negative", where=where, fix="give g CO2 per kWh, 0 or more")
        if not self.max_age_s > 0:
            raise InputError(
                f"its longest validity of a value is {self.max_age_s:g} s", where=where, fix="give seconds > 0"
            )

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return unit_of(self.kind, self.currency)

    @cached_property
    def _steps(self) -> tuple[FloatArray, FloatArray]:
        """The series, with an entry nan (for the fallback) added where the validity of a value ends."""
        if self.max_age_s == math.inf:
            return np.append(-np.inf, self.time_s), np.append(np.nan, self.value)
        ends = np.minimum(np.append(self.time_s[1:], np.inf), self.time_s + self.max_age_s)
        old = ends < np.append(self.time_s[1:], np.inf)
        time_s = np.concatenate([self.time_s, ends[old]])
        value = np.concatenate([self.value, np.full(int(old.sum()), np.nan)])
        order = np.argsort(time_s, kind="stable")
        return np.append(-np.inf, time_s[order]), np.append(np.nan, value[order])

    def at(self, now_s: float) -> SignalValue:
        """Return the signal's value at a moment (Unix seconds), or the fallback and why it is used."""
        time_s, value = self._steps
        known = float(value[np.searchsorted(time_s, now_s, side="right") - 1])
        if not math.isnan(known):
            return SignalValue(known, "")
        return SignalValue(self.fallback, self._why(now_s))

    def mean(self, from_s: float, to_s: float) -> float:
        """Return the signal's mean over a time span (Unix seconds), with the fallback where the series has no value."""
        lasts_s, value, _ = self._values(from_s, to_s)
        return float(np.sum(lasts_s * value) / (to_s - from_s))

    def known_mean(self, from_s: float, to_s: float) -> float:
        """Return the signal's mean where the series has values in a time span; nan if it has none there."""
        lasts_s, value, known = self._values(from_s, to_s)
        known_s = lasts_s * known
        return float(np.sum(known_s * value) / known_s.sum()) if known_s.any() else math.nan

    def _values(self, from_s: float, to_s: float) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return the steps of the signal between two moments: lengths in seconds, values, and which values are known.

        A value that is not known is replaced by the fallback.
        """
        steps, values = self._steps
        edges = np.concatenate([[from_s], steps[(steps > from_s) & (steps < to_s)], [to_s]])
        value = values[np.searchsorted(steps, edges[:-1], side="right") - 1]
        known = ~np.isnan(value)
        return np.diff(edges), np.where(known, value, self.fallback), known

    def _why(self, now_s: float) -> str:
        said = f"{self.kind} signal of {self.source}"
        before = int(np.searchsorted(self.time_s, now_s, side="right"))
        if before == 0:
            return f"{said} has no value for this time: {prose(self.fallback, 6)} {self.unit} is used"
        age_h = (now_s - float(self.time_s[before - 1])) / HOUR_S
        return f"{said} is {age_h:.1f} h old: {prose(self.fallback, 6)} {self.unit} is used"


@dataclass(frozen=True, slots=True)
class SignalValue:
    """Value of a signal. ``fell_back`` is the reason for using the fallback; "" if the series has a valid value."""

    value: float
    fell_back: str


def constant(kind: Kind, value: float, currency: str = "") -> Signal:
    """Return a signal with the same value at all times.

    Raises:
        InputError: The value is not finite, or is negative for carbon.
    """
    source = f"constant {prose(value, 6)} {unit_of(kind, currency)}"
    return Signal(kind, source, np.array([-np.inf]), np.array([value]), value, math.inf, currency)


def read_signal(text: str, kind: Kind, *, source: str, fallback: float, max_age_s: float = MAX_AGE_S) -> Signal:
    """Read a signal from CSV text.

    The first line names the columns; only ``time`` and ``value`` are read. ``time`` is ISO 8601 with a zone
    (``2026-11-23T17:00+01:00``) or Unix seconds, ascending. ``value`` is money (tariff) or g CO2 (carbon) per kWh.
    Empty lines and lines that begin with ``#`` are skipped.

    Raises:
        InputError: A column is missing, a field is not valid, or the times are not ascending. The message names the
            line.
    """
    lines = text.lstrip("\ufeff").splitlines()
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if len(rows) < 2:
        raise InputError("holds no values", where=source, fix="give a header time,value and a line for each step")
    header = [name.strip().lower() for name in _fields(rows[0], source)]
    for name in ("time", "value"):
        if header.count(name) != 1:
            raise InputError(
                f"needs exactly one column {name}", where=f"{source}:{rows[0][0]}", fix="header: time,value"
            )
    columns = header.index("time"), header.index("value")
    times: list[float] = []
    values: list[float] = []
    for number, line in rows[1:]:
        where = f"{source}:{number}"
        cells = _fields((number, line), source)
        if len(cells) <= max(columns):
            raise InputError(f"has {len(cells)} columns", where=where, fix=f"the header has {len(header)}")
        time_s, value = _time(cells[columns[0]].strip(), where), _value(cells[columns[1]].strip(), kind, where)
        if times and time_s <= times[-1]:
            what = "the same time as" if time_s == times[-1] else "an earlier time than"
            raise InputError(
                f"has {what} the line before ({cells[columns[0]].strip()})",
                where=where,
                fix="sort by time, with each time once",
            )
        times.append(time_s)
        values.append(value)
    return Signal(kind, source, np.array(times), np.array(values), fallback, max_age_s)


def joined(old: Signal, new: Signal) -> Signal:
    """Return a signal with the values of ``old`` up to the first time of ``new``, then the values of ``new``."""
    keep = old.time_s < new.time_s[0]
    time_s, value = np.append(old.time_s[keep], new.time_s), np.append(old.value[keep], new.value)
    return Signal(new.kind, new.source, time_s, value, new.fallback, new.max_age_s, new.currency)


def factor(signals: Sequence[tuple[Signal, float]], now_s: float) -> tuple[float, list[str]]:
    """Return the factor by which signals multiply λ_E now, and the reasons for any fallback.

        m(t) = Σ weight·s(t)/mean(s) ÷ Σ weight, bounded to [1/4, 4]

    s(t) is a signal's value now, and mean(s) the mean of its known values of the last week. So signals do not change
    the mean of λ_E, and budgets do not depend on them. s(t)/mean(s) is taken as 1 if the value is a fallback, or if the
    mean is not above 0 (a week of negative prices).

    Args:
        signals: Signals with weights > 0; without signals the factor is 1.
        now_s: Unix seconds.
    """
    total = share = 0.0
    notes = []
    for signal, weight in signals:
        reading = signal.at(now_s)
        if reading.fell_back:
            notes.append(reading.fell_back)
        mean = signal.known_mean(now_s - COMPARED_S, now_s)
        total += weight
        # counts as 1 if there is no known value, or no mean to compare it with
        share += weight * (reading.value / mean if mean > 0 and not reading.fell_back else 1.0)
    if total <= 0:
        return 1.0, notes
    return min(max(share / total, LEAST_FACTOR), MOST_FACTOR), notes


def _fields(row: tuple[int, str], source: str) -> list[str]:
    try:
        return next(csv.reader([row[1]], strict=True))
    except csv.Error as error:
        raise InputError(f"is not a line of CSV ({error})", where=f"{source}:{row[0]}") from None


def _time(text: str, where: str) -> float:
    fix = "write ISO 8601 with a zone (2026-11-23T17:00+01:00), or Unix seconds"
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(f"{text[:40]!r} is not a valid time", where=where, fix=fix) from None
        if moment.tzinfo is None:
            raise InputError(f"{text[:40]!r} has no time zone", where=where, fix=fix) from None
        seconds = moment.timestamp()
    if not 0 <= seconds <= datetime(9999, 1, 1, tzinfo=UTC).timestamp():
        raise InputError(f"{text[:40]!r} is not a valid time", where=where, fix=fix)
    return seconds


def _value(text: str, kind: Kind, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= MOST_VALUE or (kind == "carbon" and value < 0):
        fix = f"give a number of {unit_of(kind)}, at most {MOST_VALUE:,.0f}"
        raise InputError(f"{text[:40]!r} is not a valid value", where=where, fix=fix)
    return value
