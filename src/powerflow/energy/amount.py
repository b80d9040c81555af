"""Amounts of energy as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from powerflow.errors import InputError

_AMOUNT = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(%|[A-Za-z]+)\s*")
_JOULES = {"j": 1.0, "kj": 1e3, "mj": 1e6, "gj": 1e9, "wh": 3.6e3, "kwh": 3.6e6, "mwh": 3.6e9, "gwh": 3.6e12}


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of energy: joules, or a share of what some reference uses.

    Attributes:
        value: Joules; or a share, 1 being all of it.
        relative: Whether it is a share.
    """

    value: float
    relative: bool


def parse_amount(text: str, where: str = "--energy") -> Amount:
    """Read ``80%``, or joules as `parse_joules` does.

    Raises:
        InputError: It is no amount, or not more than 0.
    """
    number, unit = _parse(text, where, ("%", *_JOULES), "write a share such as 80%, or an amount such as 300kWh")
    if unit == "%":
        return Amount(number / 100.0, relative=True)
    return Amount(number * _JOULES[unit], relative=False)


def parse_joules(text: str, where: str) -> float:
    """Read ``300kWh``, ``1.2 MWh`` or ``5e8J``; units in any case (``MJ`` is megajoules).

    Raises:
        InputError: It is no amount of energy, or not more than 0.
    """
    number, unit = _parse(text, where, tuple(_JOULES), "write an amount such as 300kWh")
    return number * _JOULES[unit]


def _parse(text: str, where: str, units: Sequence[str], fix: str) -> tuple[float, str]:
    match = _AMOUNT.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or unit not in units:
        raise InputError(f"{text!r} is no amount of energy", where=where, fix=fix)
    try:
        number = float(match[1])
    except ValueError:
        raise InputError(f"{text!r} is no amount of energy", where=where, fix=fix) from None
    if not (number > 0 and math.isfinite(number)):
        raise InputError(f"{text!r} is not more than nothing", where=where, fix=fix)
    return number, unit


def kwh(joules: float) -> str:
    """Joules as budgets are spoken of: ``144.2 kWh``, four digits."""
    return f"{joules / 3.6e6:.4g} kWh"
