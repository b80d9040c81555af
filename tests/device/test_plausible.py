"""Counters and powers that cannot be are not counted, and said."""

from __future__ import annotations

import math

import pytest

from powerflow.device.meter import Meter
from powerflow.device.plausible import Jump, sane
from powerflow.device.protocol import DeviceError, Reading


class Card:
    """A real card with a counter that the test sets."""

    uuid, node, index, gpu_type, emulated = "CARD", "n0", 0, "A100", False

    def __init__(self, limit_w: float = 400.0) -> None:
        self.time_s, self.power_w, self.energy_j, self.limit_w = 100.0, 300.0, 5000.0, limit_w

    def read(self) -> Reading:
        return Reading(self.time_s, self.power_w, self.energy_j, 1410.0, None, 1.0, power_limit_w=self.limit_w)

    def clocks_mhz(self) -> list[float]:
        raise DeviceError("not asked here")

    def lock_clock(self, clock_mhz: float) -> None:
        raise DeviceError("not asked here")

    def unlock_clock(self) -> None:
        raise DeviceError("not asked here")

    def passes(self, seconds: float, joules: float) -> None:
        self.time_s += seconds
        self.energy_j += joules


def metered(card: Card) -> Meter:
    meter = Meter([card])
    meter.settle(0.0, {"CARD": "job"})
    return meter


@pytest.mark.parametrize(
    ("step_j", "charged_j", "said"),
    [
        (300.0, 300.0, ""),
        (520.0, 520.0, ""),  # a moment above the limit
        (1e12, 300.0, "rose by 1,000,000,000,000.0 J in 1.0 s"),
        (-4900.0, 300.0, "went back by 4,900.0 J"),
    ],
)
def test_a_counter_is_believed_as_far_as_the_card_can_draw(step_j: float, charged_j: float, said: str) -> None:
    card = Card()
    meter = metered(card)
    card.passes(1.0, step_j)
    settled = meter.settle(1.0, {"CARD": "job"})
    assert settled.jobs_mj == {"job": round(charged_j * 1e3)}
    jumps = meter.jumps()
    assert [said in jump.sentence() for jump in jumps] == ([True] if said else [])
    card.passes(1.0, 300.0)  # and it goes on from where the counter now stands
    assert meter.settle(2.0, {}).jobs_mj == {"job": 300_000}
    assert meter.jumps() == []


def test_a_counter_that_jumps_up_and_comes_back_costs_nobody_anything() -> None:
    card = Card()
    meter = metered(card)
    total_mj = 0
    for step_j in (1e15, -1e15, 300.0):
        card.passes(1.0, step_j)
        total_mj += meter.settle(1.0, {"CARD": "job"}).jobs_mj["job"]
    assert total_mj == 900_000
    assert len(meter.jumps()) == 2


def test_a_limit_that_was_just_lowered_does_not_make_what_was_drawn_before_impossible() -> None:
    card = Card(limit_w=400.0)
    meter = metered(card)
    card.passes(10.0, 3900.0)
    card.limit_w, card.power_w = 100.0, 100.0
    assert meter.settle(1.0, {}).jobs_mj == {"job": 3_900_000}
    assert meter.jumps() == []


@pytest.mark.parametrize("watts", [1e6, math.inf, -5.0])
def test_a_power_that_cannot_be_is_unknown(watts: float) -> None:
    card = Card()
    card.power_w = watts
    assert math.isnan(sane(card.read()).power_w)
    meter = metered(card)
    card.passes(1.0, 300.0)
    assert meter.settle(1.0, {}).jobs_mj == {"job": 300_000}
    assert math.isnan(meter.readings["CARD"].power_w)


def test_where_the_limit_is_unknown_no_card_draws_more_than_any() -> None:
    card = Card(limit_w=math.nan)
    meter = metered(card)
    card.passes(1.0, 2500.0)
    assert meter.settle(1.0, {}).jobs_mj == {"job": 2_500_000}
    card.passes(1.0, 1e5)
    meter.settle(2.0, {})
    (jump,) = meter.jumps()
    assert isinstance(jump, Jump)
    assert jump.counted_j == pytest.approx(1e5)
