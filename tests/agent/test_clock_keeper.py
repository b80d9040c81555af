"""A clock is what is read back: asked again where it does not hold, and said where it never does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.agent.clock_keeper import MOST_WAIT_S, RENEW_S, SETTLE_S, ClockKeeper, stands
from powerflow.device.lease import LEASE_S, Clocks, lease_left_s, restore_leftovers
from powerflow.device.protocol import DeviceError, DeviceLost, NotPermitted, Reading

UUID = "CARD"


class Card:
    """A card whose driver cannot tell what it is locked to, as NVIDIA's; time is the test's."""

    uuid, node, index, gpu_type, emulated = "CARD", "n0", 0, "A100", False

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.locked_mhz: float | None = None
        self.asks: list[float] = []
        self.obeys = True
        self.error: DeviceError | None = None
        self.held_back: frozenset[str] = frozenset()
        self.slow_mhz: float | None = None
        self.used = 1.0

    def read(self) -> Reading:
        clock_mhz = self.slow_mhz or self.locked_mhz or 1410.0
        return Reading(self.now_s, 300.0, 0.0, clock_mhz, None, self.used, held_back=self.held_back)

    def set_by_hand(self, clock_mhz: float | None) -> None:
        self.locked_mhz = clock_mhz

    def clocks_mhz(self) -> list[float]:
        return [705.0, 945.0, 1410.0]

    def lock_clock(self, clock_mhz: float) -> None:
        self.asks.append(clock_mhz)
        if self.error is not None:
            raise self.error
        if self.obeys:
            self.locked_mhz = clock_mhz

    def unlock_clock(self) -> None:
        if self.error is not None:
            raise self.error
        self.locked_mhz = None


class Loop:
    """A keeper, its card, and a controller's turns."""

    def __init__(self, directory: Path) -> None:
        self.card, self.directory = Card(), directory
        self.said: list[str] = []
        self.clocks = Clocks(directory, [self.card], self.said.append)
        self.keeper = ClockKeeper({UUID: self.card}, self.clocks, lambda: self.card.now_s)

    def turn(
        self, mhz: float | None = 945.0, after_s: float = 1.0, silent: tuple[str, ...] = (), lease_s: float = LEASE_S
    ) -> None:
        self.card.now_s += after_s
        readings = {UUID: self.card.read()}
        self.keeper.tune({} if mhz is None else {UUID: mhz}, readings, silent, lease_s)

    def done(self) -> list[str]:
        return [change.action for change in self.keeper.take_changes()]


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


def test_a_clock_is_set_once_and_written_down_when_it_was_read(loop: Loop) -> None:
    for _ in range(20):
        loop.turn()
    assert loop.card.asks == [945.0]
    assert loop.done() == ["clock set"]
    assert loop.keeper.holds([UUID])
    loop.turn(None)
    assert loop.card.locked_mhz is None
    assert loop.done() == ["clock back"]
    assert not loop.keeper.holds([UUID])


def test_one_that_was_reset_by_hand_is_set_again(loop: Loop) -> None:
    loop.turn()
    loop.card.now_s += 60.0
    loop.card.set_by_hand(None)  # nvidia-smi -rgc
    loop.turn()
    assert loop.card.locked_mhz == 945.0
    assert loop.done() == ["clock set", "clock lost", "clock set"]
    assert loop.keeper.notices() == []


def test_what_the_watchdog_gave_back_while_we_stood_still_is_set_again(loop: Loop) -> None:
    loop.turn()
    restore_leftovers(loop.directory, [loop.card])
    loop.card.used, loop.card.slow_mhz = 0.0, 210.0  # it idles: no reading could tell
    loop.turn(after_s=RENEW_S)
    assert loop.card.asks == [945.0, 945.0]
    assert loop.card.locked_mhz == 945.0
    assert "clock was reset, because its lease had ended" in loop.done()


def test_a_driver_that_obeys_late_is_waited_for_and_nothing_is_claimed_before(loop: Loop) -> None:
    loop.card.obeys = False
    loop.turn()
    loop.turn()
    assert loop.done() == ["clock asked"]
    assert not loop.keeper.holds([UUID])
    assert loop.keeper.strays(UUID)  # nothing is learned meanwhile
    loop.card.locked_mhz = 945.0
    loop.turn()
    assert loop.done() == ["clock set"]
    assert loop.keeper.holds([UUID])
    assert not loop.keeper.strays(UUID)
    assert loop.card.asks == [945.0]


def test_a_driver_that_never_obeys_is_asked_less_and_less_often_and_it_is_said(loop: Loop) -> None:
    loop.card.obeys = False
    for _ in range(600):
        loop.turn()
    assert 600 / MOST_WAIT_S - 1 <= len(loop.card.asks) <= 600 / MOST_WAIT_S + 8
    assert loop.keeper.notices() == ["GPU 0 of n0: it runs at 1410 MHz instead of the requested 945 MHz"]
    assert not loop.keeper.holds([UUID])
    loop.card.locked_mhz = 945.0
    loop.turn()
    assert loop.keeper.notices() == []
    assert loop.keeper.holds([UUID])


@pytest.mark.parametrize("reason", ["power", "heat", "idle"])
def test_a_gpu_that_is_kept_below_its_clock_is_left_alone(loop: Loop, reason: str) -> None:
    loop.card.slow_mhz, loop.card.held_back = 600.0, frozenset({reason})
    for _ in range(30):
        loop.turn()
    assert loop.card.asks == [945.0]
    assert loop.keeper.notices() == []
    assert not loop.keeper.strays(UUID)
    assert not loop.keeper.holds([UUID])  # never seen at it: never claimed


def test_a_busy_gpu_that_somebody_locked_lower_is_asked_again(loop: Loop) -> None:
    loop.turn()
    loop.card.locked_mhz = 705.0
    loop.turn(after_s=SETTLE_S)
    assert loop.card.locked_mhz == 945.0
    assert loop.done() == ["clock set", "clock lost", "clock set"]


def test_a_clock_that_could_not_be_set_is_tried_again_and_said(loop: Loop) -> None:
    loop.card.error = DeviceError("Unknown Error")
    loop.turn()
    assert loop.keeper.notices() == ["GPU 0 of n0: its clock cannot be set: Unknown Error"]
    assert loop.done() == []
    loop.card.error = None
    for _ in range(10):
        loop.turn()
    assert loop.card.locked_mhz == 945.0
    assert loop.done() == ["clock set"]
    assert loop.keeper.notices() == []


def test_where_clocks_may_not_be_set_nothing_is_claimed(loop: Loop) -> None:
    loop.card.error = NotPermitted("Insufficient Permissions")
    for _ in range(10):
        loop.turn(1410.0)  # which it runs at anyhow
    assert loop.done() == []
    assert len(loop.card.asks) == 1
    assert not loop.keeper.holds([UUID])
    assert "clocks cannot be set" in loop.said[0]


def test_a_clock_that_cannot_be_given_back_is_given_back_later(loop: Loop) -> None:
    loop.turn()
    loop.card.error = DeviceLost("GPU is lost")
    loop.turn(None)
    assert loop.keeper.notices() == ["GPU 0 of n0: its own clock cannot be restored: GPU is lost"]
    loop.card.error = None
    for _ in range(10):
        loop.turn(None)
    assert loop.card.locked_mhz is None
    assert loop.clocks.borrowed() == frozenset()
    assert loop.keeper.notices() == []


def test_nothing_is_asked_of_a_gpu_that_does_not_answer(loop: Loop) -> None:
    loop.turn(silent=(UUID,))
    assert loop.card.asks == []


def test_the_watchdogs_lease_is_no_longer_than_the_controllers_wish(loop: Loop) -> None:
    loop.turn(lease_s=3.0)
    assert lease_left_s(loop.directory) <= 3.0
    loop.turn(lease_s=2.0)  # soon enough for a lease so short
    assert 1.0 < lease_left_s(loop.directory) <= 2.0


def test_without_a_lease_nothing_is_renewed(loop: Loop) -> None:
    loop.turn(lease_s=3.0)
    left_s = lease_left_s(loop.directory)
    loop.card.error = DeviceLost("GPU is lost")  # it cannot be given back now
    for _ in range(10):
        loop.turn(None, lease_s=0.0)
    assert lease_left_s(loop.directory) <= left_s


def test_a_reading_from_before_tells_nothing(loop: Loop) -> None:
    reading = loop.card.read()
    assert stands(945.0, reading.time_s + 1.0, reading) == ""
    assert stands(945.0, reading.time_s, reading) == ""  # it may obey yet
    assert stands(945.0, reading.time_s - SETTLE_S, reading) == "above"
    assert stands(1410.0, reading.time_s, reading) == "holds"
    low = replace(reading, clock_mhz=600.0)
    assert stands(945.0, low.time_s - SETTLE_S, low) == "below"
    assert stands(945.0, low.time_s - SETTLE_S, replace(low, utilisation=0.1)) == ""
