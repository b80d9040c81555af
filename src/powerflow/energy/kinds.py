"""The kinds of signals there are, and in which units they speak."""

from __future__ import annotations

from typing import Literal

Kind = Literal["tariff", "carbon"]

UNITS: dict[Kind, str] = {"tariff": "money/kWh", "carbon": "gCO2/kWh"}
