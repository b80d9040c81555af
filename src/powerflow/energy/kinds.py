"""Define the kinds of signals (tariff and carbon), their units, and the bounds of their values."""

from __future__ import annotations

from typing import Literal

from powerflow.units import HOUR_S

Kind = Literal["tariff", "carbon"]

#: Largest accepted absolute value, so that sums and means stay finite.
MOST_VALUE = 1e9

#: Default validity of a value. It allows hourly values to arrive an hour late.
MAX_AGE_S = 2 * HOUR_S

UNITS: dict[Kind, str] = {"tariff": "money/kWh", "carbon": "gCO2/kWh"}
