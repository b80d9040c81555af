"""The meter: jobs and idle add up to what was metered, to the last millijoule, whatever the counters do."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.device.emulated.gpu import own_identity
from powerflow.device.meter import Meter, MeterAccount, advance
from powerflow.device.protocol import DeviceError, DeviceLost, Reading
from tests.device.cards import emulated_gpus

NAN = math.nan


class Card:
    """A GPU that says what it is told to say."""

    emulated = True
    node, index, gpu_type = "n0", 0, "A100"

    def __init__(self, uuid: str = "A") -> None:
        self.uuid = uuid
        self.time_s, self.power_w, self.energy_j = 100.0, 0.0, 0.0
        self.lost = False
        self.error: type[DeviceError] = DeviceLost

    def draw(self, watts: float, seconds: float) -> None:
        """Draw so much from now on for so long; the counter is right."""
        self.power_w = watts
        self.time_s += seconds
        self.energy_j += watts * seconds

    def read(self) -> Reading:
        if self.lost:
            raise self.error("does not answer")
        return Reading(self.time_s, self.power_w, self.energy_j, 1410.0, None, NAN)

    def clocks_mhz(self) -> list[float]:
        return []

    def lock_clock(self, clock_mhz: float) -> None: ...

    def unlock_clock(self) -> None: ...


def test_a_gpu_that_changes_hands_by_hand() -> None:
    a, b = Card("A"), Card("B")
    meter = Meter([a, b])
    assert meter.settle(0.0, {"A": "job 1", "B": "job 1"}).metered_mj == 0
    a.draw(300.0, 10.0)
    b.draw(200.0, 10.0)
    settled = meter.settle(10.0, {"A": "job 1", "B": "job 2"})
    assert settled == (0.0, 10.0, {"job 1": 5_000_000}, 0, 5_000_000, ())
    a.draw(300.0, 5.0)
    b.draw(100.0, 5.0)
    settled = meter.settle(15.0, {"A": None})
    assert settled == (10.0, 15.0, {"job 1": 1_500_000, "job 2": 500_000}, 0, 2_000_000, ())
    a.draw(60.0, 1.0)
    b.draw(60.0, 1.0)
    assert meter.settle(16.0, {}) == (15.0, 16.0, {}, 120_000, 120_000, ())


def test_without_a_counter_power_is_integrated() -> None:
    card = Card()
    meter = Meter([card])
    card.energy_j = card.power_w = NAN
    meter.settle(0.0, {"A": "job"})
    for watts in (100.0, 100.0, 300.0):
        card.time_s, card.power_w = card.time_s + 2.0, watts
        meter.sample()
    # nothing is known before the first power, so it counts for that time too; then 2 s at 100, 2 s from 100 to 300
    assert meter.settle(6.0, {}).jobs_mj == {"job": 200_000 + 200_000 + 400_000}


def test_a_gpu_that_tells_nothing_draws_nothing() -> None:
    card = Card()
    card.energy_j = card.power_w = NAN
    meter = Meter([card])
    meter.settle(0.0, {"A": "job"})
    card.time_s += 5
    assert meter.settle(5.0, {}).metered_mj == 0


@pytest.mark.parametrize("modulus_j", [2**32 / 1e6, 2**32 / 1e3, 2**64 / 1e3])
def test_a_counter_that_wraps(modulus_j: float) -> None:
    before = MeterAccount(0.0, 250.0, modulus_j - 400.0, owner="job")
    after = advance(before, Reading(4.0, 250.0, 600.0, 1410.0, None, NAN))
    # 64 bits of millijoules are more than a float tells apart; nobody's counter gets there
    assert after.total_j == pytest.approx(1000.0, abs=modulus_j * 2**-52)


def test_a_counter_that_is_reset_is_bridged_by_the_integral() -> None:
    before = MeterAccount(0.0, 250.0, 1_000_000.0, owner="job")
    after = advance(before, Reading(4.0, 250.0, 120.0, 1410.0, None, NAN))
    assert after.total_j == 1000.0
    assert advance(after, Reading(5.0, 250.0, 370.0, 1410.0, None, NAN)).total_j == 1250.0


@pytest.mark.parametrize(("power_w", "time_s"), [(NAN, 4.0), (250.0, 0.0), (0.0, 4.0)])
def test_a_counter_that_goes_back_where_nothing_can_be_integrated_charges_nobody(power_w: float, time_s: float) -> None:
    # it counts since the driver was loaded: all of that is nobody's doing of these seconds
    before = MeterAccount(0.0, power_w, 3e9, owner="job")
    after = advance(before, Reading(time_s, power_w, 3e9 - 0.1, 1410.0, None, NAN))
    assert after.total_j == 0.0


@pytest.mark.parametrize("error", [DeviceLost, DeviceError])
def test_a_lost_gpu_is_named_and_what_it_drew_comes_when_it_answers(error: type[DeviceError]) -> None:
    a, b = Card("A"), Card("B")
    meter = Meter([a, b])
    meter.settle(0.0, {"A": "job 1", "B": "job 1"})
    a.draw(100.0, 5.0)
    b.draw(100.0, 5.0)
    b.lost, b.error = True, error
    settled = meter.settle(5.0, {"A": "job 2", "B": "job 2"})
    assert (settled.jobs_mj, settled.lost) == ({"job 1": 500_000}, ("B",))
    assert {uuid: reading.power_w for uuid, reading in meter.readings.items()} == {"A": 100.0}
    b.lost = False
    a.draw(100.0, 5.0)
    b.draw(100.0, 5.0)
    # nobody knows what of B's second 500 J came after it had changed hands
    assert meter.settle(10.0, {}).jobs_mj == {"job 1": 1_000_000, "job 2": 500_000}


def test_a_gpu_that_was_never_there_is_metered_from_when_it_answers() -> None:
    card = Card()
    card.lost = True
    meter = Meter([card])
    assert meter.settle(0.0, {"A": "job"}).lost == ("A",)
    card.lost = False
    card.draw(100.0, 5.0)
    assert meter.settle(5.0, {"A": "job"}).metered_mj == 0
    card.draw(100.0, 5.0)
    assert meter.settle(10.0, {}).jobs_mj == {"job": 500_000}


def test_what_passes_while_nobody_meters_goes_to_the_owner_then() -> None:
    card = Card()
    meter = Meter([card])
    meter.settle(0.0, {"A": "job"})
    card.draw(200.0, 3.0)
    meter.sample()  # drawn, not handed out yet
    kept = json.loads(json.dumps(meter.state()))
    card.draw(200.0, 3600.0)  # an hour without a controller
    settled = Meter([card], kept).settle(3603.0, {})
    assert settled == (0.0, 3603.0, {"job": 720_600_000}, 0, 720_600_000, ())


def test_after_a_reboot_no_job_is_charged() -> None:
    card = Card()
    meter = Meter([card])
    card.draw(200.0, 3.0)
    meter.settle(0.0, {"A": "job"})
    kept = json.loads(json.dumps(meter.state())) | {"boot": "an earlier one"}
    card.time_s, card.energy_j = 50.0, 90.0  # both began at 0 again
    again = Meter([card], kept)
    assert again.settle(60.0, {"A": "job"}) == (0.0, 60.0, {}, 90_000, 90_000, ())
    card.draw(200.0, 1.0)
    assert again.settle(61.0, {}).jobs_mj == {"job": 200_000}


def test_nan_outlives_json() -> None:
    card = Card()
    card.energy_j = NAN
    meter = Meter([card])
    meter.settle(0.0, {})
    assert Meter([card], json.loads(json.dumps(meter.state(), allow_nan=False))).state() == meter.state()


def run_steadily(meter: Meter, card: Card, seconds: int, counter_factor: float) -> None:
    for _ in range(seconds):
        before_j = card.energy_j
        card.draw(250.0, 1.0)
        card.energy_j = before_j + 250.0 * counter_factor
        meter.sample()


def test_counter_and_integral_are_compared_and_a_difference_is_told_once() -> None:
    card = Card()
    card.power_w = 250.0
    meter = Meter([card])
    meter.sample()
    run_steadily(meter, card, 40, 1.03)
    assert meter.check() == []
    run_steadily(meter, card, 40, 1.08)
    (found,) = meter.check()
    assert (found.uuid, found.window_s) == ("A", 40)
    assert found.counter_j == pytest.approx(40 * 270)
    assert found.integral_j == pytest.approx(40 * 250)
    assert found.share == pytest.approx(20 / 270)
    run_steadily(meter, card, 40, 1.08)
    assert meter.check() == [], "told already"
    run_steadily(meter, card, 40, 1.0)
    assert meter.check() == []
    run_steadily(meter, card, 40, 0.9)
    assert len(meter.check()) == 1, "it agreed in between"


def test_a_job_that_comes_and_goes_between_readings_is_no_difference() -> None:
    """It came just before a reading and went just after one: the trapezoid says 261 J more than the counter."""
    card = Card()
    card.power_w = 60.0
    meter = Meter([card])
    meter.sample()
    run = [(60.0, 0.95), (350.0, 0.05), None, (350.0, 1.0), None, (350.0, 0.05), (60.0, 0.95), None]
    for part in [*run, *[(60.0, 1.0), None] * 28]:
        if part is None:
            meter.sample()
        else:
            card.draw(*part)
    assert meter.check() == []
    card.power_w = 250.0
    meter.sample()
    run_steadily(meter, card, 40, 1.08)
    assert len(meter.check()) == 1, "once the power is steady, it is told"


def test_a_time_without_readings_is_not_compared() -> None:
    card = Card()
    meter = Meter([card])
    meter.sample()
    card.draw(60.0, 3000.0)  # nobody looked; the two readings say nothing about the time between
    card.power_w = 400.0
    meter.sample()
    run_steadily(meter, card, 40, 1.0)
    assert meter.check() == []


_powers = st.one_of(st.just(NAN), st.floats(0, 700))
_counters = st.one_of(st.just(NAN), st.floats(0, 1e7))
_rows = st.tuples(st.floats(0, 100), _powers, _counters, st.sampled_from([None, "1", "2", "3"]), st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_rows, _rows), min_size=1, max_size=20), st.integers(0, 19))
def test_jobs_and_idle_are_what_was_metered_whatever_happens(
    moments: list[tuple[tuple[float, float, float, str | None, bool], ...]], restart_at: int
) -> None:
    cards = [Card("A"), Card("B")]
    meter = Meter(cards)
    meter.settle(0.0, {})
    metered_mj = 0
    for number, rows in enumerate(moments):
        if number == restart_at:
            meter = Meter(cards, json.loads(json.dumps(meter.state())))
        owners = {}
        for card, (seconds, power_w, energy_j, owner, lost) in zip(cards, rows, strict=True):
            card.time_s, card.power_w, card.energy_j, card.lost = card.time_s + seconds, power_w, energy_j, lost
            owners[card.uuid] = owner
        settled = meter.settle(float(number), owners)
        assert settled.metered_mj == sum(settled.jobs_mj.values()) + settled.idle_mj
        assert all(drawn >= 0 for drawn in [settled.idle_mj, *settled.jobs_mj.values()])
        metered_mj += settled.metered_mj
    accounts = meter.state()["accounts"].values()
    assert metered_mj == sum(round(account["total_j"] * 1e3) for account in accounts)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 700), st.integers(0, 2)), min_size=1, max_size=30))
def test_with_a_right_counter_every_job_is_charged_what_its_gpu_drew(moments: list[tuple[float, float, int]]) -> None:
    card = Card()
    meter = Meter([card])
    drawn_j = dict.fromkeys(["0", "1", "2"], 0.0)
    charged_mj = dict.fromkeys(drawn_j, 0)
    for seconds, watts, owner in moments:
        for job, drawn_mj in meter.settle(0.0, {"A": str(owner)}).jobs_mj.items():
            charged_mj[job] += drawn_mj
        card.draw(watts, seconds)
        drawn_j[str(owner)] += watts * seconds
    for job, drawn_mj in meter.settle(0.0, {}).jobs_mj.items():
        charged_mj[job] += drawn_mj
    for job, joules in drawn_j.items():
        assert charged_mj[job] == pytest.approx(joules * 1e3, abs=0.6 * len(moments))


def test_emulated_gpus_under_steady_load_within_half_a_percent_of_the_integral(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [time.monotonic()]
    monkeypatch.setattr("powerflow.device.emulated.gpu.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    gpus = emulated_gpus(tmp_path)
    pid, birth = own_identity()
    meter = Meter(gpus)
    meter.settle(0.0, {})
    gpus[0].draw(287.0, pid=pid, birth=birth)
    integral_j = 0.0
    owners = {gpus[0].uuid: "job"}
    jobs_mj = idle_mj = 0
    meter.settle(0.0, owners)
    for second in range(120):
        now_s[0] += 1.0
        settled = meter.settle(float(second), owners)
        jobs_mj += settled.jobs_mj["job"]
        idle_mj += settled.idle_mj
        integral_j += sum(gpu.read().power_w for gpu in gpus)
    assert jobs_mj == pytest.approx(287_000 * 120, rel=1e-6)
    assert (jobs_mj + idle_mj) / 1e3 == pytest.approx(integral_j, rel=0.005)


class AveragingCard(Card):
    """A real GPU as an H200 is: its power is the mean of the last second, its counter is right."""

    emulated = False

    def __init__(self) -> None:
        super().__init__()
        self._drawn = [(self.time_s - 10.0, 0.0), (self.time_s, 0.0)]  # joules by time

    def draw(self, watts: float, seconds: float) -> None:
        self.time_s += seconds
        self.energy_j += watts * seconds
        self._drawn.append((self.time_s, self._drawn[-1][1] + watts * seconds))
        times, joules = zip(*self._drawn, strict=True)
        before_j, now_j = np.interp([self.time_s - 1.0, self.time_s], times, joules)
        self.power_w = float(now_j - before_j)


def test_the_mean_power_since_the_last_reading_is_the_counters() -> None:
    card = AveragingCard()
    meter = Meter([card])
    meter.sample()
    card.draw(100.0, 0.4)
    meter.sample()  # too soon after the first for a counter that is renewed ten times a second
    assert tuple(meter.powers["A"]) == pytest.approx((40.0, 1.0))
    card.draw(300.0, 0.8)
    assert card.read().power_w == pytest.approx(260.0)  # what was drawn before still shows
    meter.sample()
    assert tuple(meter.powers["A"]) == pytest.approx((300.0, 0.8))
    card.energy_j = 0.0  # it was reset
    card.time_s += 1.0
    meter.sample()
    assert tuple(meter.powers["A"]) == pytest.approx((260.0, 1.0))


def test_the_power_of_an_emulated_gpu_is_that_of_the_moment() -> None:
    card = Card()
    meter = Meter([card])
    meter.sample()
    card.draw(300.0, 1.0)
    card.energy_j -= 100.0  # of a step that has not ended
    meter.sample()
    assert tuple(meter.powers["A"]) == (300.0, 0.0)
