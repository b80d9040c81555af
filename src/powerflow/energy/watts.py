"""Amounts of power, and how long, as people write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from powerflow.errors import InputError

_NUMBER = r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*"
_AMOUNT = re.compile(_NUMBER + r"(%|[A-Za-z]+)\s*")
_RATE = re.compile(_NUMBER + r"([A-Za-z]+)\s*/\s*(s|min)\s*")
_WATTS = {"w": 1.0, "kw": 1e3, "mw": 1e6}
_SECONDS = {"s": 1.0, "min": 60.0}


@dataclass(frozen=True, slots=True)
class PowerAmount:
    """An amount of power: watts, or a share of what some reference draws.

    Attributes:
        value: Watts; or a share, 1 being all of it.
        relative: Whether it is a share.
    """

    value: float
    relative: bool

    def watts(self, reference_w: float) -> float:
        """Watts, given what is drawn now."""
        return self.value * reference_w if self.relative else self.value


def parse_power(text: str, where: str = "--power") -> PowerAmount:
    """Read ``60kW``, ``500 W``, ``1.2MW`` (megawatts) or ``75%``; units in any case.

    Raises:
        InputError: It is no amount of power, or not more than 0.
    """
    match = _AMOUNT.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or (unit != "%" and unit not in _WATTS):
        raise InputError(
            f"{text!r} is no amount of power", where=where, fix="write watts such as 60kW, or a share: 75%"
        )
    value = _positive(match[1], text, where)
    return (
        PowerAmount(value / 100.0, relative=True) if unit == "%" else PowerAmount(value * _WATTS[unit], relative=False)
    )


def parse_ramp(text: str, where: str = "--ramp") -> float:
    """Read ``500W/s`` or ``6kW/min`` as watts per second.

    Raises:
        InputError: It is no such rate, or not more than 0.
    """
    match = _RATE.fullmatch(text)
    if match is None or match[2].lower() not in _WATTS:
        raise InputError(f"{text!r} is no ramp", where=where, fix="write watts over time, such as 500W/s or 6kW/min")
    return _positive(match[1], text, where) * _WATTS[match[2].lower()] / _SECONDS[match[3]]


def _positive(number: str, text: str, where: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{text!r} is not more than nothing", where=where, fix="give a number > 0")
    return value
