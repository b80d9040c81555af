"""Quantities as people write them."""

from __future__ import annotations

import pytest

from powerflow.errors import InputError
from powerflow.units import Amount, parse_amount, parse_power, parse_ramp


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("80%", Amount(0.8, relative=True)),
        (" 62.5 % ", Amount(0.625, relative=True)),
        ("300kWh", Amount(300 * 3.6e6, relative=False)),
        ("1.2 MWh", Amount(1.2 * 3.6e9, relative=False)),
        ("5e8J", Amount(5e8, relative=False)),
        ("2gj", Amount(2e9, relative=False)),
    ],
)
def test_reads_what_people_write(text: str, amount: Amount) -> None:
    read = parse_amount(text, "--energy")
    assert read.value == pytest.approx(amount.value, rel=1e-12)
    assert read.relative == amount.relative


@pytest.mark.parametrize("text", ["", "80", "kWh", "80 parsecs", "1..2kWh", "--80%", "80%%", "nan%", "1e999kWh"])
def test_refuses_what_is_no_amount(text: str) -> None:
    with pytest.raises(InputError, match="--energy"):
        parse_amount(text, "--energy")


@pytest.mark.parametrize("text", ["0%", "-5kWh", "1e999kWh"])
def test_refuses_nothing_and_less(text: str) -> None:
    with pytest.raises(InputError, match="not more than 0"):
        parse_amount(text, "--energy")


@pytest.mark.parametrize(
    ("text", "watts"), [("60kW", 60e3), (" 500 W", 500.0), ("1.2MW", 1.2e6), ("3e2w", 300.0), ("75%", 750.0)]
)
def test_power_is_read(text: str, watts: float) -> None:
    read = parse_power(text, "--power")
    assert read.value * (1000.0 if read.relative else 1.0) == pytest.approx(watts)


@pytest.mark.parametrize("text", ["", "60", "kW", "60 kWh", "-3kW", "0W", "nan W", "1..2kW", "5e999kW", "75 %%"])
def test_what_is_no_power_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_power(text, "--power")


@pytest.mark.parametrize(("text", "w_per_s"), [("500W/s", 500.0), ("6 kW/min", 100.0), ("1MW / s", 1e6)])
def test_ramps_are_read(text: str, w_per_s: float) -> None:
    assert parse_ramp(text, "--ramp") == pytest.approx(w_per_s)


@pytest.mark.parametrize("text", ["", "500W", "5/s", "0W/s", "-1W/s", "3kW/h"])
def test_what_is_no_ramp_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_ramp(text, "--ramp")
