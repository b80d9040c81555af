"""List the kinds of price signals and their units."""

from __future__ import annotations

from typing import Literal

Kind = Literal["tariff", "carbon"]

UNITS: dict[Kind, str] = {"tariff": "money/kWh", "carbon": "gCO2/kWh"}
