"""Quantities as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow import units
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


# --- writing ------------------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)
#: What can occur: joules of a millisecond of one GPU to those of a century of a million, seconds, watts, shares.
OCCURS = st.one_of(
    FINITE, st.floats(1e-12, 1e18), st.floats(-1e18, -1e-12), st.just(0.0), st.integers(0, 10**18).map(float)
)
WRITERS: tuple[Callable[[float], str], ...] = (
    units.significant,
    units.prose,
    units.duration,
    units.elapsed,
    units.energy,
    units.power,
    units.kwh,
    units.percent,
    lambda value: units.fixed(value, 3),
)


@given(OCCURS)
@pytest.mark.parametrize("write", WRITERS)
def test_no_number_is_written_with_an_exponent(write: Callable[[float], str], value: float) -> None:
    assert not re.search(r"\de[+-]?\d", write(value))


@given(st.lists(st.one_of(st.none(), OCCURS), max_size=6))
@pytest.mark.parametrize(
    "write",
    [units.duration_column, units.energy_column, units.power_column, lambda values: units.number_column(values, "J")],
)
def test_a_column_has_one_unit_and_one_precision(
    write: Callable[[Sequence[float | None]], list[str]], values: list[float | None]
) -> None:
    texts = write(values)
    assert [text == units.NOTHING for text in texts] == [value is None for value in values]
    said = [re.fullmatch(r"([<>]?-?[\d\u202f]+(?:\.(\d+))?) (\w+)", text) for text in texts if text != units.NOTHING]
    assert all(said), texts
    assert len({(len(match[2] or ""), match[3]) for match in said if match}) <= 1, texts
    for value, text in zip(values, texts, strict=True):
        assert value is None or (float(text.split()[0].strip("<>").replace("\u202f", "")) == 0) <= (value == 0)


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0, 3, "0.000"),
        (1234567.8, 0, "1\u202f234\u202f568"),
        (0.0004, 3, "<0.001"),
        (0.0005001, 3, "0.001"),
        (-0.001, 2, ">-0.01"),
        (0.2, 0, "<1"),
        (float("nan"), 2, units.NOTHING),
    ],
)
def test_fixed_decimals(value: float, decimals: int, text: str) -> None:
    assert units.fixed(value, decimals) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (42.0, "0:00:42"), (5400.0, "1:30:00"), (86_399.6, "1-00:00:00"), (273_600.0, "3-04:00:00")],
)
def test_elapsed_time_is_as_in_slurm(seconds: float, text: str) -> None:
    assert units.elapsed(seconds) == text


def test_a_column_shows_small_values_beside_large_ones() -> None:
    assert units.energy_column([1.24e9, 1.8e3, None, 0.0]) == ["344.4444 kWh", "0.0005 kWh", "–", "0.0000 kWh"]
    assert units.energy_column([300.0, 2.0]) == ["300 J", "2 J"]
    assert units.duration_column([3600.0, 90.0]) == ["60.0 min", "1.5 min"]
    assert units.power_column([60e3]) == ["60 kW"]
    assert units.kwh_column([1.44e9, 5e8]) == ["400.0 kWh", "138.9 kWh"]
    assert units.power_column([402.0, 1206.0]) == ["0.40 kW", "1.21 kW"]
