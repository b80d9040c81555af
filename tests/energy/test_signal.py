"""Series of tariffs and carbon intensities: what holds when, what it comes to, and what is refused."""

from __future__ import annotations

import math
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.arrays import FloatArray
from powerflow.energy.kinds import Kind
from powerflow.energy.signal import LEAST_FACTOR, MOST_FACTOR, Signal, constant, factor, joined, read_signal
from powerflow.errors import InputError

HOUR = 3600.0


def series(*steps: tuple[float, float], kind: Kind = "tariff", fallback: float = 0.5, age_h: float = 2.0) -> Signal:
    """Steps at hours."""
    times, values = np.array(steps).T
    return Signal(kind, "a test", times * HOUR, values, fallback, age_h * HOUR)


def hours(count: int) -> FloatArray:
    return np.arange(count, dtype=np.float64) * HOUR


def read(text: str, kind: Kind = "tariff") -> Signal:
    return read_signal(text, kind, source="s.csv", fallback=0.3)


def test_a_value_holds_until_the_next_but_not_for_ever() -> None:
    signal = series((1, 0.2), (2, 0.4), (6, 0.1))
    assert [signal.at(h * HOUR).value for h in (1, 1.99, 2, 3.99, 4, 5.99, 6, 7.99, 8)] == [
        0.2, 0.2, 0.4, 0.4, 0.5, 0.5, 0.1, 0.1, 0.5,
    ]  # fmt: skip
    assert signal.at(2 * HOUR).fell_back == ""


def test_the_fallback_says_why() -> None:
    signal = series((1, 0.2), (2, 0.4))
    assert signal.at(0.0).fell_back == ("tariff signal of a test has no value for this time: 0.5 money/kWh is used")
    assert signal.at(5 * HOUR).fell_back == "tariff signal of a test is 3.0 h old: 0.5 money/kWh is used"


def test_mean_counts_the_fallback() -> None:
    # 1 h of 0.5 before, 1 h of 0.2, 2 h of 0.4, then 4 h of 0.5
    assert series((1, 0.2), (2, 0.4)).mean(0, 8 * HOUR) == pytest.approx((0.5 + 0.2 + 0.8 + 2.0) / 8)


def test_energy_becomes_money_and_says_what_rests_on_the_fallback() -> None:
    signal = series((1, 0.2), (2, 0.4))
    money = 2 * 1.5 * signal.mean(0.0, 1.5 * HOUR) + 1 * 3.5 * signal.mean(1.5 * HOUR, 5 * HOUR)
    # 2 kW for 1 h at 0.5 and for half an hour at 0.2; 1 kW for half an hour at 0.2, 2 h at 0.4, 1 h at 0.5
    assert money == pytest.approx(2 * 0.5 + 1 * 0.2 + 0.5 * 0.2 + 2 * 0.4 + 1 * 0.5)
    assert signal.known_mean(0.0, 1.5 * HOUR) == pytest.approx(0.2)
    assert signal.known_mean(1.5 * HOUR, 5 * HOUR) == pytest.approx((0.5 * 0.2 + 2 * 0.4) / 2.5)


def test_a_constant_is_never_old() -> None:
    signal = constant("carbon", 380.0)
    assert signal.at(1e10).fell_back == ""
    assert signal.mean(0.0, HOUR) == 380.0
    assert signal.known_mean(0.0, HOUR) == pytest.approx(380.0)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(-0.5, 2)), min_size=1, max_size=20, unique_by=lambda s: s[0]),
    st.lists(st.floats(0, 5000), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_cost_is_additive_over_time(steps: list[tuple[int, float]], lengths: list[float]) -> None:
    signal = series(*sorted(steps))
    edges = np.cumsum([0.0, *(37.3 * HOUR + length for length in lengths)])
    whole = signal.mean(edges[0], edges[-1]) * (edges[-1] - edges[0])
    parts = [signal.mean(*edges[i : i + 2]) * (edges[i + 1] - edges[i]) for i in range(len(lengths))]
    assert whole == pytest.approx(sum(parts), abs=1e-3)


def test_csv_in_both_ways_of_writing_time() -> None:
    text = "\ufeffZone,Time,VALUE\n# day ahead\nDE,2026-11-23T17:00+01:00,0.31\n\nDE,1795453200,-0.02\n"
    signal = read(text)
    assert signal.time_s.tolist() == [datetime.fromisoformat("2026-11-23T16:00Z").timestamp(), 1795453200.0]
    assert signal.value.tolist() == [0.31, -0.02]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "s.csv: holds no values"),
        ("time,value\n", "s.csv: holds no values"),
        ("when,value\n0,1\n", "s.csv:1: needs exactly one column time"),
        ("time,value,value\n0,1,1\n", "s.csv:1: needs exactly one column value"),
        ("time,value\n0\n", "s.csv:2: has 1 columns"),
        ("time,value\nnoon,1\n", "s.csv:2: 'noon' is not a valid time"),
        ("time,value\n2026-11-23T17:00,1\n", "s.csv:2: '2026-11-23T17:00' has no time zone"),
        ("time,value\n-5,1\n", "s.csv:2: '-5' is not a valid time"),
        ("time,value\nnan,1\n", "s.csv:2: 'nan' is not a valid time"),
        ("time,value\n0,1\n0,2\n", "s.csv:3: has the same time as the line before"),
        ("time,value\n9,1\n\n5,2\n", "s.csv:4: has an earlier time than the line before"),
        ("time,value\n0,dear\n", "s.csv:2: 'dear' is not a valid value"),
        ("time,value\n0,inf\n", "s.csv:2: 'inf' is not a valid value"),
        ("time,value\n0,1e308\n", "s.csv:2: '1e308' is not a valid value"),
        ('time,value\n0,"1\n', "s.csv:2: is not a line of CSV"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).startswith(says)


def test_carbon_is_never_negative_and_prices_may_be() -> None:
    assert read("time,value\n0,-1\n").value.tolist() == [-1.0]
    with pytest.raises(InputError, match="is not a valid value"):
        read("time,value\n0,-1\n", "carbon")
    with pytest.raises(InputError, match="fallback is negative"):
        constant("carbon", -1.0)


def test_newer_news_wins() -> None:
    signal = joined(series((0, 1.0), (1, 2.0), (2, 3.0)), series((1, 5.0), (3, 6.0)))
    assert (signal.time_s / HOUR).tolist() == [0, 1, 3]
    assert signal.value.tolist() == [1.0, 5.0, 6.0]


def test_the_factor_keeps_the_mean_and_its_bounds() -> None:
    number = np.arange(24 * 15, dtype=np.float64)
    value: FloatArray = 300 + 120 * np.sin(2 * math.pi * number / 24)
    signal = Signal("carbon", "a test", hours(24 * 15), value, 300.0)
    over = [factor([(signal, 1.0)], h * HOUR)[0] for h in range(24 * 8, 24 * 14)]
    assert np.mean(over) == pytest.approx(1.0, abs=1e-9)
    assert max(over) == pytest.approx(1.4)
    peak = Signal("tariff", "a test", hours(24 * 15), np.where(number % 24 == 12, 9.0, 0.01), 0.1)
    assert factor([(peak, 1.0)], (24 * 10 + 12) * HOUR)[0] == MOST_FACTOR
    assert factor([(peak, 1.0)], (24 * 10 + 13) * HOUR)[0] == LEAST_FACTOR


def test_a_factor_without_news_is_one_and_says_so() -> None:
    signal = series((0, 0.2), (1, 0.4))
    assert factor([(signal, 1.0)], 30 * HOUR) == (1.0, [signal.at(30 * HOUR).fell_back])
    assert factor([], 0.0) == (1.0, [])
    # one of two falls back: the other still counts, by its weight
    steady = Signal("carbon", "b", hours(31), np.append(np.full(30, 100.0), 300.0), 100.0)
    alone, _ = factor([(steady, 1.0)], 30 * HOUR)
    assert factor([(signal, 1.0), (steady, 3.0)], 30 * HOUR)[0] == pytest.approx((1 + 3 * alone) / 4)


def test_a_week_of_negative_prices_says_nothing() -> None:
    signal = Signal("tariff", "a test", hours(24 * 8), np.full(24 * 8, -0.01), -0.01)
    assert factor([(signal, 1.0)], 24 * 7.5 * HOUR)[0] == 1.0
