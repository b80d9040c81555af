"""Numbers as people read them. Inside PowerFlow everything is joules, watts and seconds; here is the edge."""

from __future__ import annotations

import math

#: What stands where there is no number.
NOTHING = "–"


def significant(value: float, digits: int = 3) -> str:
    """``value`` with at least ``digits`` significant digits, plain notation, thousands parted by a thin space.

    Whole parts are never rounded away: 12345.6 gives ``12 346``, 1.23456 gives ``1.23``.
    """
    if not math.isfinite(value):
        return NOTHING
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    decimals = min(max(digits - 1 - magnitude, 0), 9)
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    return "0" if float(value) == 0 else text


_TIMES = ((90.0, "s", 1.0), (90 * 60.0, "min", 60.0), (72 * 3600.0, "h", 3600.0), (math.inf, "days", 86400.0))


def prose(value: float) -> str:
    """Three significant digits without zeros that say nothing: 1.9, not 1.90."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``17.5 min``, ``1.9 h``, ``3.2 days``: whichever reads best."""
    return durations(seconds)[0]


def durations(*seconds: float) -> list[str]:
    """Several durations to be read side by side, all in the unit that suits the longest."""
    longest = max((abs(value) for value in seconds if math.isfinite(value)), default=0.0)
    unit, size = next((unit, size) for limit, unit, size in _TIMES if longest < limit)
    return [f"{prose(value / size)} {unit}" if math.isfinite(value) else NOTHING for value in seconds]


def kwh(joules: float) -> float:
    """Joules as kilowatt-hours."""
    return joules / 3.6e6


_ENERGIES = ((36_000.0, "J", 1.0), (3.6e10, "kWh", 3.6e6), (3.6e13, "MWh", 3.6e9), (math.inf, "GWh", 3.6e12))


def energy(joules: float) -> str:
    """Joules as ``412 J``, ``0.85 kWh``, ``1 240 kWh``, ``3.1 GWh``: whichever reads best."""
    return energies(joules)[0]


def energies(*joules: float) -> list[str]:
    """Several energies to be read side by side, all in the unit that suits the largest."""
    largest = max((abs(value) for value in joules if math.isfinite(value)), default=0.0)
    unit, size = next((unit, size) for limit, unit, size in _ENERGIES if largest < limit)
    return [f"{prose(value / size)} {unit}" if math.isfinite(value) else NOTHING for value in joules]


def power(watts: float) -> str:
    """Watts as ``270 W``, ``41.2 kW``, ``1.3 MW``."""
    if not math.isfinite(watts):
        return NOTHING
    for limit, unit, size in ((1e3, "W", 1.0), (1e6, "kW", 1e3)):
        if abs(watts) < limit:
            return f"{prose(watts / size)} {unit}"
    return f"{prose(watts / 1e6)} MW"


def percent(share: float) -> str:
    """0.8 as ``80 %``; one decimal only where it says something."""
    if not math.isfinite(share):
        return NOTHING
    value = round(share * 100, 1)
    return f"{value:.0f}\u202f%" if value == round(value) else f"{value:.1f}\u202f%"
