"""Read and write quantities with units, such as ``300kWh``.

Inside PowerFlow all quantities are joules, watts, seconds and bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from powerflow.errors import InputError

HOUR_S = 3600.0
DAY_S = 86_400.0
J_PER_KWH = 3.6e6

#: Text for a missing number.
NOTHING = "–"

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": HOUR_S, "d": DAY_S}
_JOULES = {"j": 1.0, "kj": 1e3, "mj": 1e6, "gj": 1e9, "wh": 3.6e3, "kwh": J_PER_KWH, "mwh": 3.6e9, "gwh": 3.6e12}
_WATTS = {"w": 1.0, "kw": 1e3, "mw": 1e6}
_BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}

#: Regular expressions of the text that `seconds_of` and `bytes_of` read, for a JSON Schema.
DURATION = r"([0-9]{1,12}(\.[0-9]{1,9})?)\s*(ms|s|m|min|h|d)?"
SIZE = r"([0-9]{1,12}(\.[0-9]{1,9})?)\s*([KMGT]i?B)"

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)", re.ASCII)
_NUMBER = r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*"
_AMOUNT = re.compile(_NUMBER + r"(%|[A-Za-z]+)\s*")
_RATE = re.compile(_NUMBER + r"([A-Za-z]+)\s*/\s*(s|min)\s*")


# --- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amount:
    """Amount of energy or power, absolute or as a share.

    Attributes:
        value: Joules or watts; or a share, where 1 is 100 %.
        relative: True if it is a share.
    """

    value: float
    relative: bool


def parse_amount(text: str, where: str) -> Amount:
    """Read a share such as ``80%``, or an amount of energy such as ``300kWh``.

    Raises:
        InputError: The text is not a share or an amount of energy, or not more than 0.
    """
    return _amount(text, where, _JOULES, "energy", "write a share such as 80%, or an amount such as 300kWh")


def parse_joules(text: str, where: str) -> float:
    """Read ``300kWh``, ``1.2 MWh`` or ``5e8J`` as joules. Units may be in any case (``MJ`` is megajoules).

    Raises:
        InputError: The text is not an amount of energy, or not more than 0.
    """
    return _amount(text, where, _JOULES, "energy", "write an amount such as 300kWh", share=False).value


def parse_power(text: str, where: str) -> Amount:
    """Read ``60kW``, ``500 W``, ``1.2MW`` (megawatts) or ``75%``. Units may be in any case.

    Raises:
        InputError: The text is not an amount of power or a share, or not more than 0.
    """
    return _amount(text, where, _WATTS, "power", "write watts such as 60kW, or a share: 75%")


def parse_ramp(text: str, where: str) -> float:
    """Read ``500W/s`` or ``6kW/min`` as watts per second.

    Raises:
        InputError: The text is not a change of power per time, or not more than 0.
    """
    match = _RATE.fullmatch(text)
    if match is None or match[2].lower() not in _WATTS:
        raise InputError(f"{text!r} is not a ramp", where=where, fix="write watts over time, such as 500W/s or 6kW/min")
    return _positive(match[1], text, where) * _WATTS[match[2].lower()] / _SECONDS[match[3]]


def parse_length(text: str, where: str) -> float:
    """Read a length of time such as ``3h``, ``90m`` or ``45s`` as seconds.

    Raises:
        InputError: The text is not a length of time, or the length is 0.
    """
    seconds = length_of(text)
    if not seconds:
        raise InputError(f"{text!r} is not a length of time", where=where, fix="write 3h, 90m or 45s")
    return seconds


def length_of(text: str) -> float | None:
    """Convert a length of time with its unit (s, m, min, h, d) to seconds; None if the text has another form."""
    found = _LENGTH.fullmatch(text.strip())
    return None if found is None else float(found[1]) * _SECONDS[found[2]]


def seconds_of(text: str) -> float | None:
    """Convert a duration (regular expression `DURATION`) to seconds, the default unit; None if it has another form."""
    found = re.fullmatch(DURATION, text.strip(), re.ASCII)
    return None if found is None else float(found[1]) * _SECONDS[found[3] or "s"]


def bytes_of(text: str) -> int | None:
    """Convert a size such as ``512MiB`` or ``16GB`` to bytes; None if the text has another form."""
    found = re.fullmatch(SIZE, text.strip(), re.ASCII)
    return None if found is None else round(float(found[1]) * _BYTES[found[3]])


def _amount(text: str, where: str, units: Mapping[str, float], kind: str, fix: str, *, share: bool = True) -> Amount:
    match = _AMOUNT.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or not (unit in units or (share and unit == "%")):
        raise InputError(f"{text!r} is not an amount of {kind}", where=where, fix=fix)
    value = _positive(match[1], text, where)
    return Amount(value / 100.0, relative=True) if unit == "%" else Amount(value * units[unit], relative=False)


def _positive(number: str, text: str, where: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{text!r} is not more than 0", where=where, fix="give a number > 0")
    return value


# --- writing ----------------------------------------------------------------------------------------------------


def significant(value: float, digits: int = 3) -> str:
    """Format ``value`` with at least ``digits`` significant digits and thin spaces between thousands.

    Digits before the decimal point are never rounded away: 12345.6 gives ``12 346``, 1.23456 gives ``1.23``.
    """
    if not math.isfinite(value):
        return NOTHING
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    decimals = min(max(digits - 1 - magnitude, 0), 9)
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    return "0" if float(value) == 0 else text


def fixed(value: float, decimals: int) -> str:
    """Format ``value`` with a fixed number of decimals and thin spaces between thousands, as for a column of a table.

    A value that is not 0 is never written as 0: with three decimals, 0.0004 gives ``<0.001``.
    """
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    if value and not float(f"{value:.{decimals}f}"):
        least = f"{10.0**-decimals:.{decimals}f}"
        return f"<{least}" if value > 0 else f">-{least}"
    return text


def prose(value: float, digits: int = 3) -> str:
    """Format a number with ``digits`` significant digits, without trailing zeros: 1.9, not 1.90."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


#: Most decimals in a column; a smaller value is written as ``<0.0001``.
_MOST_DECIMALS = 4
#: Units by size: a value below the limit is written in this unit. The last number is the unit's size in base units.
_Scale = tuple[tuple[float, str, float], ...]
_TIMES: _Scale = ((90.0, "s", 1.0), (90 * 60.0, "min", 60.0), (72 * HOUR_S, "h", HOUR_S), (math.inf, "days", DAY_S))
_ENERGIES: _Scale = ((3.6e4, "J", 1.0), (3.6e10, "kWh", J_PER_KWH), (3.6e13, "MWh", 3.6e9), (math.inf, "GWh", 3.6e12))
_POWERS: _Scale = ((1e3, "W", 1.0), (1e6, "kW", 1e3), (math.inf, "MW", 1e6))


def duration(seconds: float) -> str:
    """Format seconds in the best unit: ``42 s``, ``17.5 min``, ``1.9 h``, ``3.2 days``."""
    return durations(seconds)[0]


def durations(*seconds: float) -> list[str]:
    """Format several durations in the unit that suits the longest, so that readers can compare them."""
    return _scaled(seconds, _TIMES)


def elapsed(seconds: float) -> str:
    """Format a length of time as Slurm does, in one form for a column of a table: ``0:00:42``, ``3-04:48:00``."""
    if not math.isfinite(seconds):
        return NOTHING
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:{rest_s:02}" if days else f"{hours}:{minutes:02}:{rest_s:02}"


def energy(joules: float) -> str:
    """Format joules in the best unit: ``412 J``, ``0.85 kWh``, ``1 240 kWh``, ``3.1 GWh``."""
    return energies(joules)[0]


def energies(*joules: float) -> list[str]:
    """Format several energies in the unit that suits the largest, so that readers can compare them."""
    return _scaled(joules, _ENERGIES)


def kwh(joules: float) -> str:
    """Format joules as kilowatt-hours with four digits, as for budgets: ``144.2 kWh``."""
    return f"{prose(joules / J_PER_KWH, 4)} kWh"


def power(watts: float) -> str:
    """Format watts in the best unit: ``270 W``, ``41.2 kW``, ``1.3 MW``."""
    return _scaled((watts,), _POWERS)[0]


def size(count: float) -> str:
    """Format a number of bytes: ``512 MiB``, ``14.9 GiB``."""
    return f"{prose(count / 2**30)} GiB" if count >= 2**30 else f"{prose(count / 2**20)} MiB"


def percent(share: float) -> str:
    """Format a share in percent: 0.8 as ``80 %``, 0.125 as ``12.5 %``."""
    if not math.isfinite(share * 100):
        return NOTHING
    value = round(share * 100, 1)
    return f"{value:.0f}\u202f%" if value == round(value) else f"{value:.1f}\u202f%"


def duration_column(seconds: Sequence[float | None]) -> list[str]:
    """Format durations for a column of a table: in one unit and with one number of decimals, a dash for None."""
    return _column(seconds, _TIMES)


def energy_column(joules: Sequence[float | None]) -> list[str]:
    """Format energies for a column of a table: in one unit and with one number of decimals, a dash for None."""
    return _column(joules, _ENERGIES)


def kwh_column(joules: Sequence[float | None]) -> list[str]:
    """Format joules as kilowatt-hours for a column of budgets, with one number of decimals, a dash for None."""
    return _column(joules, ((math.inf, "kWh", J_PER_KWH),), 4)


def power_column(watts: Sequence[float | None]) -> list[str]:
    """Format powers for a column of a table: in one unit and with one number of decimals, a dash for None."""
    return _column(watts, _POWERS)


def number_column(values: Sequence[float | None], unit: str) -> list[str]:
    """Format numbers of one unit for a column of a table, with one number of decimals, a dash for None."""
    return _column(values, ((math.inf, unit, 1.0),))


def decimals_for(values: Iterable[float], digits: int = 3) -> int:
    """Return how many decimals a column of these values needs, at most `_MOST_DECIMALS`.

    The largest value then has ``digits`` significant digits, and the smallest that is not 0 has two. Decimals that
    would be 0 in all values are left out.
    """
    known = [value for value in values if value and math.isfinite(value)]
    if not known:
        return 0
    sizes = [math.floor(math.log10(abs(value))) for value in known]
    decimals = min(max(digits - 1 - max(sizes), 1 - min(sizes), 0), _MOST_DECIMALS)
    while decimals and all(f"{value:.{decimals}f}".endswith("0") and abs(value) >= 10.0**-decimals for value in known):
        decimals -= 1
    return decimals


def _column(values: Sequence[float | None], scale: _Scale, digits: int = 3) -> list[str]:
    known = [value for value in values if value is not None and math.isfinite(value)]
    unit, size = _unit(known, scale)
    decimals = decimals_for((value / size for value in known), digits)
    return [
        NOTHING if value is None or not math.isfinite(value) else f"{fixed(value / size, decimals)} {unit}"
        for value in values
    ]


def _unit(values: Iterable[float], scale: _Scale) -> tuple[str, float]:
    """Return the unit that suits the largest value, and the unit's size in base units."""
    largest = max(map(abs, values), default=0.0)
    return next((unit, size) for limit, unit, size in scale if largest < limit)


def _scaled(values: tuple[float, ...], scale: _Scale) -> list[str]:
    unit, size = _unit(filter(math.isfinite, values), scale)
    return [f"{prose(value / size)} {unit}" if math.isfinite(value) else NOTHING for value in values]
