"""Define the kinds of signals (tariff and carbon), their units, and the bounds of their values."""

from __future__ import annotations

from typing import Literal

from powerflow.units import HOUR_S

Kind = Literal["tariff", "carbon"]

#: Largest accepted absolute value, so that sums and means stay finite.
MOST_VALUE = 1e9

#: Default validity of a value. It allows hourly values to arrive an hour late.
MAX_AGE_S = 2 * HOUR_S

#: Code of a currency as in ISO 4217, such as EUR; "" for a tariff that does not say its currency.
CURRENCY = r"^([A-Z]{3})?$"


def unit_of(kind: Kind, currency: str = "") -> str:
    """Return the unit of a signal's values: ``gCO2/kWh``, ``EUR/kWh``, or ``money/kWh`` without a currency."""
    return "gCO2/kWh" if kind == "carbon" else f"{currency or 'money'}/kWh"
