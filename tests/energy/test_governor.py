"""A governor on a plant that is worked out by hand: energy falls with the price, and nothing is left to chance."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.energy.budget import Budget, Warned
from powerflow.energy.budgets import Budgets
from powerflow.energy.governor import Governor
from powerflow.energy.response import Response
from powerflow.errors import InputError
from powerflow.units import DAY_S
from tests.slow import examples

KWH = 3.6e6
PRICES = (0.0, 1e-3, 4e-3, 16e-3)
#: 100 kWh a day at no price, 40 at the highest; never more than 6 kW.
CURVE = (100 * KWH, 80 * KWH, 60 * KWH, 40 * KWH)
DAY = Response(PRICES, CURVE, (6000.0,) * 4, (0.0,) * 4)
TICK_S = 1800.0


def governed(kwh: float, *, idle_w: float = 0.0, period: str = "day", scope: str = "") -> Governor:
    governor = Governor(Budget(kwh * KWH, period, "UTC", scope), PRICES, idle_w=idle_w)  # type: ignore[arg-type]
    governor.learn(DAY)
    return governor


def drive(governor: Governor, days: float, truth: float = 1.0, load: float = 1.0) -> tuple[list[float], list[Warned]]:
    """A plant that draws what the curve says, times ``truth``, within the limit; joules of each day, and warnings."""
    meter_j, daily, warned = 0.0, [0.0], []
    for tick in range(round(days * DAY_S / TICK_S)):
        now_s = tick * TICK_S
        if tick and now_s % DAY_S == 0:
            governor.learn(Response(PRICES, tuple(load * j for j in CURVE), DAY.full_w, DAY.under_way_j))
            daily.append(0.0)
        warned += governor.observe(now_s, meter_j)
        wanted_w = governor.idle_w + truth * load * DAY.at(governor.price) / DAY_S
        used_j = min(wanted_w, governor.limit_w(now_s)) * TICK_S
        meter_j += used_j
        daily[-1] += used_j
    return daily, warned


def test_the_price_is_the_one_at_which_the_budget_is_met() -> None:
    governor = governed(60 / 0.996)  # the reserve is not planned with
    governor.observe(0.0, 0.0)
    assert governor.price == pytest.approx(4e-3, rel=1e-6)


def test_a_budget_that_is_enough_costs_nothing() -> None:
    governor = governed(120.0)
    governor.observe(0.0, 0.0)
    assert governor.price == 0.0


def test_before_a_day_has_been_learnt_only_the_limit_holds() -> None:
    governor = Governor(Budget(60 * KWH, "day"), PRICES)
    governor.observe(0.0, 0.0, [KWH] * 4)
    governor.observe(0.5 * DAY_S, 59 * KWH, [KWH] * 4)
    assert governor.price == 0.0
    assert governor.limit_w(0.5 * DAY_S) == pytest.approx((60 * 0.996 - 59) * KWH / 7200)
    assert governor.standing(0.5 * DAY_S).forecast_j == 59 * KWH


def test_work_that_is_owed_makes_joules_dearer() -> None:
    usual, behind = governed(70.0), governed(70.0)
    usual.observe(0.0, 0.0, [0.0] * 4)
    behind.observe(0.0, 0.0, [15 * KWH] * 4)
    assert behind.price > usual.price > 0


def test_idle_draw_comes_first() -> None:
    governor = governed((60 + 24) / 0.996, idle_w=1000.0)
    governor.observe(0.0, 0.0)
    assert governor.price == pytest.approx(4e-3, rel=1e-6)


def test_a_plant_that_draws_more_than_believed_is_found_out() -> None:
    daily, _ = drive(governed(60.0), 40, truth=1.1)
    assert max(daily) <= 60 * KWH
    assert min(daily[10:]) >= 0.98 * 60 * KWH


@given(
    kwh=st.floats(5, 150), truth=st.floats(0.7, 1.4), load=st.floats(0.3, 2.0), period=st.sampled_from(["day", "month"])
)
@settings(max_examples=examples(25), deadline=None)
def test_a_budget_is_kept_whatever_is_believed(kwh: float, truth: float, load: float, period: str) -> None:
    # 31 days of January 1970, then the first of February
    daily, _ = drive(governed(kwh, period=period), 31, truth, load)
    spent = daily if period == "day" else [sum(daily)]
    assert max(spent) <= kwh * KWH * (1 + 1e-9)


def test_energy_that_is_wanted_is_not_left_over() -> None:
    daily, _ = drive(governed(60.0), 30, load=1.4)
    assert min(daily[5:]) >= 0.97 * 60 * KWH


def test_each_warning_comes_once_in_each_window() -> None:
    _, warned = drive(governed(60.0), 3)
    assert [(w.standing.window.name[-2:], w.at) for w in warned] == [
        (day, at) for day in ("01", "02", "03") for at in (0.85, 0.90, 0.95)
    ]


def test_a_month_may_be_uneven() -> None:
    # half the load for half of the month leaves energy for the rest
    governor = governed(31 * 60.0, period="month")
    first, _ = drive(governor, 1, load=0.5)
    assert first[0] < 60 * KWH
    late = governor.standing(DAY_S - TICK_S)
    assert late.forecast_j <= 31 * 60 * KWH
    assert late.spent_j == pytest.approx(first[0], rel=0.03)


def test_the_limit_ends_with_the_budget() -> None:
    governor = governed(60.0, idle_w=100.0)
    governor.observe(0.0, 0.0)
    assert governor.limit_w(0.0) == pytest.approx(100.0 + (60 * 0.996 - 2.4) * KWH / 7200)
    governor.observe(0.9 * DAY_S, 60 * KWH)
    assert governor.limit_w(0.9 * DAY_S) == 100.0


def test_a_new_window_is_unspent_before_its_first_reading() -> None:
    governor = governed(60.0)
    governor.observe(DAY_S - 600.0, 59 * KWH)
    governor.begin(DAY_S - 600.0, 0.0)
    assert governor.limit_w(DAY_S - 600.0) < governor.limit_w(DAY_S)
    assert governor.standing(DAY_S).spent_j == 0.0


def test_the_meter_is_split_where_a_window_begins() -> None:
    governor = governed(60.0)
    governor.observe(DAY_S - 600.0, 0.0)
    governor.observe(DAY_S + 200.0, 8 * KWH)
    assert governor.standing(DAY_S + 200.0).spent_j == pytest.approx(2 * KWH)


def test_a_budget_set_at_noon_counts_from_midnight_where_the_meter_is_known() -> None:
    governor = governed(60.0)
    governor.begin(DAY_S / 2, 1000 * KWH)
    governor.observe(DAY_S / 2, 1040 * KWH)
    assert governor.standing(DAY_S / 2).spent_j == 40 * KWH
    unknowing = governed(60.0)
    unknowing.observe(DAY_S / 2, 1040 * KWH)
    assert unknowing.standing(DAY_S / 2).spent_j == 0.0


def test_it_goes_on_from_its_state_as_if_nothing_had_been() -> None:
    one, two = governed(60.0), governed(60.0)
    drive(one, 5, truth=1.2)
    two.restore(json.loads(json.dumps(one.state())))
    assert two.state() == one.state()
    now_s, meter_j = 5 * DAY_S, one.state()["meter"] + KWH
    assert one.observe(now_s, meter_j) == two.observe(now_s, meter_j)
    assert (one.price, one.limit_w(now_s)) == (two.price, two.limit_w(now_s))


@pytest.mark.parametrize("state", [{}, {"price": 1.0}])
def test_what_is_no_state_is_refused(state: dict[str, float]) -> None:
    with pytest.raises(InputError, match="saved state cannot be read"):
        governed(1.0).restore(state)


def test_the_state_of_other_prices_is_refused() -> None:
    state = governed(60.0).state()
    with pytest.raises(InputError, match="other energy prices"):
        Governor(Budget(1.0, "day"), (0.0, 1.0)).restore(state)
    with pytest.raises(InputError, match="other energy prices"):
        Governor(Budget(1.0, "day"), (0.0, 1.0)).learn(DAY)


@pytest.mark.parametrize("idle_w", [-1.0, math.inf, math.nan])
def test_what_is_no_idle_draw_is_refused(idle_w: float) -> None:
    with pytest.raises(InputError, match="idle draw"):
        Governor(Budget(1.0, "day"), PRICES, idle_w=idle_w)


def test_projects_have_prices_of_their_own() -> None:
    governors = {
        "": governed(60.0),
        "vision": governed(50.0, scope="vision"),
        "speech": governed(500.0, scope="speech"),
    }
    for governor in governors.values():
        governor.observe(0.0, 0.0)
    prices = Budgets(governors).terms(0.0, 0.0).by_project
    assert set(prices) == {"vision", "speech"}
    assert prices["vision"] > 4e-3
    assert prices["speech"] == 0.0
