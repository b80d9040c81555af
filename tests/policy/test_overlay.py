"""Clocks chosen over a policy that chooses GPUs."""

from __future__ import annotations

import pytest

from powerflow.errors import InputError
from powerflow.policy.fifo import Fifo
from powerflow.policy.overlay import FixedClock, ZeusClock
from powerflow.policy.protocol import View
from tests.policy.views import make_view

CLOCKS = (600.0, 900.0, 1005.0, 1410.0)


def _view() -> View:
    return make_view([{}], step_time_s=[[[4.0, 3.0, 2.5, 2.0]]], capacity=1, gpu_counts=(1,), clocks_mhz=CLOCKS)


@pytest.mark.parametrize(
    ("clock", "index"),
    [
        (1005.0, 2),  # exactly
        (1004.0, 1),  # the nearest below
        (5000.0, 3),  # above the highest: the highest
        (1.0, 3),  # a fraction: all of it
        (0.7, 1),  # 987 MHz: 900
        (1005 / 1410, 2),  # a fraction that is a clock
        (0.1, 0),  # 141 MHz: a fraction is never less than the lowest
    ],
)
def test_a_fixed_clock_is_the_nearest_at_or_below(clock: float, index: int) -> None:
    assert FixedClock(Fifo(), clock).decide(_view()).clock.tolist() == [index]


def test_a_clock_below_all_is_refused() -> None:
    with pytest.raises(InputError, match="no clock at or below 599 MHz; the lowest is 600 MHz"):
        FixedClock(Fifo(), 599.0).decide(_view())


@pytest.mark.parametrize("clock", [0.0, -5.0, float("nan"), float("inf")])
def test_a_clock_that_is_none_is_refused(clock: float) -> None:
    with pytest.raises(InputError, match="not a positive number"):
        FixedClock(Fifo(), clock)


@pytest.mark.parametrize(("eta", "index"), [(0.0, 2), (0.4, 2), (0.5, 1), (0.9, 1), (0.95, 0), (1.0, 0)])
def test_zeus_minimises_its_cost(eta: float, index: int) -> None:
    # One GPU at three clocks: T = 2.0, 1.5, 1.2 s; P = 100, 140, 240 W (P_max = 240): E = 200, 210, 288 J and
    # P_max·T = 480, 360, 288 J. Cost η·E + (1−η)·P_max·T:
    # η     0    0.4    0.5    0.9    0.95   1
    # low   480  368    340    228    214    200
    # mid   360  300    285    225    217.5  210
    # high  288  288    288    288    288    288
    view = make_view(
        [{}],
        step_time_s=[[[2.0, 1.5, 1.2]]],
        power_w=[[[100.0, 140.0, 240.0]]],
        capacity=1,
        gpu_counts=(1,),
        clocks_mhz=(600.0, 900.0, 1410.0),
    )
    assert ZeusClock(Fifo(), eta).decide(view).clock.tolist() == [index]
