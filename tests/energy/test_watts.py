"""Amounts of power as people write them."""

from __future__ import annotations

import pytest

from powerflow.energy.watts import parse_power, parse_ramp
from powerflow.errors import InputError


@pytest.mark.parametrize(
    ("text", "watts"), [("60kW", 60e3), (" 500 W", 500.0), ("1.2MW", 1.2e6), ("3e2w", 300.0), ("75%", 750.0)]
)
def test_power_is_read(text: str, watts: float) -> None:
    assert parse_power(text).watts(1000.0) == pytest.approx(watts)


@pytest.mark.parametrize("text", ["", "60", "kW", "60 kWh", "-3kW", "0W", "nan W", "1..2kW", "5e999kW", "75 %%"])
def test_what_is_no_power_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_power(text)


@pytest.mark.parametrize(("text", "w_per_s"), [("500W/s", 500.0), ("6 kW/min", 100.0), ("1MW / s", 1e6)])
def test_ramps_are_read(text: str, w_per_s: float) -> None:
    assert parse_ramp(text) == pytest.approx(w_per_s)


@pytest.mark.parametrize("text", ["", "500W", "5/s", "0W/s", "-1W/s", "3kW/h"])
def test_what_is_no_ramp_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_ramp(text)
