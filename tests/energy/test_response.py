"""Curves of energy over price."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.energy.remaining_energy import remaining_energy
from powerflow.energy.response import between, falling, price_for, response
from powerflow.errors import InputError

PRICES = (0.0, 1e-3, 4e-3, 16e-3)


def test_a_replay_out_of_line_is_smoothed_and_nothing_else() -> None:
    curve = response([(0.0, 10.0, 9.0, 1.0), (2.0, 6.0, 7.0, 3.0), (1.0, 4.0, 8.0, 2.0)])
    assert (curve.joules, curve.full_w, curve.under_way_j) == ((10.0, 5.0, 5.0), (9.0, 8.0, 7.0), (1.0, 2.0, 3.0))
    assert falling([9.0, 7.0, 8.0, 3.0]) == [9.0, 7.5, 7.5, 3.0]


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_falling_falls_and_keeps_the_sum(values: list[float]) -> None:
    found = falling(values)
    assert all(high >= low for high, low in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))


@given(st.lists(st.floats(0, 1e9), min_size=4, max_size=4), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_price_for_an_energy_gives_that_energy(values: list[float], share: float) -> None:
    curve = falling(values)
    target = curve[-1] + share * (curve[0] - curve[-1])
    price = price_for(PRICES, curve, target)
    assert 0 <= price <= PRICES[-1]
    assert between(PRICES, curve, price) == pytest.approx(target, rel=1e-6, abs=1e-6 * (1 + curve[0]))


def test_what_no_price_reaches_has_the_last_price_and_what_is_enough_the_first() -> None:
    assert price_for(PRICES, [9, 8, 7, 6], 5.0) == PRICES[-1]
    assert price_for(PRICES, [9, 8, 7, 6], 9.0) == 0.0


@pytest.mark.parametrize(
    "prices", [(0.0,), (1.0, 2.0), (0.0, 0.0), (0.0, float("inf")), (0.0, float("nan")), (-1.0, 0.0)]
)
def test_what_are_no_prices_is_refused(prices: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="need at least two ascending prices"):
        response([(price, 1.0, 1.0, 1.0) for price in prices])


@pytest.mark.parametrize("energy", [-1.0, float("nan"), float("inf")])
def test_what_is_no_energy_is_refused(energy: float) -> None:
    with pytest.raises(InputError, match="not a number"):
        response([(0.0, 1.0, 1.0, 1.0), (1.0, energy, 1.0, 1.0)])


def test_owed_by_hand() -> None:
    # one class: 1 GPU 10 s at 300 W or 8 s at 500 W; 2 GPUs 5 s at 800 W or 4 s at 1100 W; idle 100 W each
    step_s = np.array([[[10.0, 8.0], [5.0, 4.0]]])
    power_w = np.array([[[300.0, 500.0], [800.0, 1100.0]]])
    counts = np.array([1, 2])
    remaining, cost = np.array([1.0, 2.0, np.nan]), np.zeros(3, np.int64)
    least, most = np.ones(3, np.int64), np.array([2, 1, 2])
    found = remaining_energy([0.0, 1.0], remaining, np.ones(3), least, most, cost, counts, step_s, power_w, 100.0)
    # fastest: 4 s at 900 W added, and for the job of one GPU 8 s at 400 W; least energy: 10 s at 200 W
    assert found == [1 * 3600.0 + 2 * 3200.0, 1 * 2000.0 + 2 * 2000.0]
