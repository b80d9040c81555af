"""Define the kinds of signals (tariff and carbon) and of budgets, their units, and the bounds of their values.

Commands load this module: it imports nothing that takes time.
"""

from __future__ import annotations

from typing import Literal

from powerflow.units import HOUR_S

Kind = Literal["tariff", "carbon"]

#: Period of a budget.
Period = Literal["day", "month"]

#: Smallest and largest accepted budget of a live cluster: 1 Wh to 1000 GWh.
LEAST_J, MOST_J = 3.6e3, 3.6e15

#: Largest accepted absolute value of a signal, so that sums and means stay finite.
MOST_VALUE = 1e9

#: Default validity of a signal's value. It allows hourly values to arrive an hour late.
MAX_AGE_S = 2 * HOUR_S

#: Code of a currency as in ISO 4217, such as EUR; "" for a tariff that does not say its currency.
CURRENCY = r"^([A-Z]{3})?$"


def unit_of(kind: Kind, currency: str = "") -> str:
    """Return the unit of a signal's values: ``gCO2/kWh``, ``EUR/kWh``, or ``money/kWh`` without a currency."""
    return "gCO2/kWh" if kind == "carbon" else f"{currency or 'money'}/kWh"
