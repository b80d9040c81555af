"""The work of GPUs, added up from readings: what is counted and over which time, by hand and for all ways to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.agent.devices import NodeDevices
from powerflow.agent.work import GAP_S, GpuWork, WorkCounters
from powerflow.device.protocol import Activity, Reading
from powerflow.engine.devices import counters_of
from tests.agent.cards import NAN, Card

GPU = "GPU-0"


def reading(
    time_s: float, clock_mhz: float = 1000.0, used: float = 1.0, tensor: float = NAN, dram: float = NAN
) -> Reading:
    """A reading of a GPU that reports the activity of its tensor cores and of its memory where they are given."""
    told = not (math.isnan(tensor) and math.isnan(dram))
    activity = Activity(NAN, tensor, dram) if told else None
    return Reading(time_s, 300.0, 0.0, clock_mhz, None, used, activity=activity)


def work(*readings: Reading) -> GpuWork:
    counters = WorkCounters()
    for each in readings:
        counters.take(GPU, each)
    return counters.of(GPU)


def as_tuple(found: GpuWork) -> tuple[float, float, float, float]:
    return found.busy, found.tensor, found.dram, found.counted_s


def exactly(*values: float) -> object:
    return pytest.approx(values, rel=1e-12, nan_ok=True)


def test_by_hand() -> None:
    found = work(
        reading(10.0, 1000.0),
        # 2 s at (1000 + 1400) / 2 = 1200 MHz: 2.4e9 cycles, of which 75 % busy and 50 % with tensor cores
        reading(12.0, 1400.0, 0.75, tensor=0.5, dram=0.25),
        # 1 s at 1300 MHz: 1.3e9 cycles
        reading(13.0, 1200.0, 1.0, tensor=0.1, dram=1.0),
    )
    assert as_tuple(found) == exactly(1.8 + 1.3, 1.2 + 0.13, 0.5 + 1.0, 3.0)


def test_a_step_has_the_same_work_at_each_clock() -> None:
    # a step of 1.2e9 tensor cycles and 0.5 s of memory traffic: 1 s at 2000 MHz, 1.5 s at 1000 MHz
    fast = work(reading(0.0, 2000.0), *(reading(k, 2000.0, 1.0, 0.6, 0.5) for k in range(1, 7)))
    slow = work(reading(0.0, 1000.0), *(reading(k, 1000.0, 1.0, 0.8, 0.5 / 1.5) for k in range(1, 7)))
    assert fast.tensor / fast.counted_s == pytest.approx(1.5 * slow.tensor / slow.counted_s)
    assert fast.dram / fast.counted_s == pytest.approx(1.5 * slow.dram / slow.counted_s)
    # busy all the time: cycles alone would say that the job runs at half its speed
    assert fast.busy / fast.counted_s == pytest.approx(2.0 * slow.busy / slow.counted_s)


def test_a_gpu_that_reports_no_activity_has_busy_cycles_alone() -> None:
    assert as_tuple(work(reading(0.0), reading(1.0), reading(3.0, used=0.5))) == exactly(2.0, NAN, NAN, 3.0)


def test_nothing_is_known_before_two_readings() -> None:
    assert as_tuple(WorkCounters().of(GPU)) == exactly(0.0, NAN, NAN, 0.0)
    assert as_tuple(work(reading(5.0, tensor=0.5, dram=0.5))) == exactly(0.0, NAN, NAN, 0.0)


def test_gpus_are_counted_apart() -> None:
    counters = WorkCounters()
    counters.take_all({"A": reading(0.0), "B": reading(0.0, 500.0)})
    counters.take_all({"A": reading(1.0), "B": reading(1.0, 500.0)})
    assert (counters.of("A").busy, counters.of("B").busy) == exactly(1.0, 0.5)


@pytest.mark.parametrize(
    "second",
    [reading(1.0, NAN), reading(1.0, used=NAN), reading(1.0 + GAP_S)],
    ids=["no clock", "no utilisation", "too long after"],
)
def test_what_is_not_known_is_not_counted_and_later_readings_are(second: Reading) -> None:
    at_s = second.time_s
    found = work(
        reading(0.0), second, reading(at_s + 1.0), reading(at_s + 3.0, tensor=0.5, dram=0.5), reading(at_s + 3.5)
    )
    # the 2 s before the last reading, and the second before them where the second reading has a clock and is whole
    whole = not math.isnan(second.clock_mhz)
    assert (found.counted_s, found.busy, found.tensor) == exactly(2.0 + whole, 2.0 + whole, 1.0)


@pytest.mark.parametrize("time_s", [10.0, 9.0, -1e6, NAN])
def test_a_reading_that_is_not_newer_changes_nothing(time_s: float) -> None:
    late = reading(time_s, 50.0, 0.0, 0.0, 0.0)
    before, after = reading(8.0, tensor=0.5, dram=0.5), reading(10.0, tensor=0.5, dram=0.5)
    assert as_tuple(work(before, after, late, reading(11.0, tensor=0.5, dram=0.5))) == exactly(3.0, 1.5, 1.5, 3.0)


def test_time_for_which_the_activity_is_missing_is_counted_for_no_total() -> None:
    known = [reading(float(k), tensor=0.5, dram=0.25) for k in range(3)]
    missing = [reading(3.0), reading(4.0, dram=0.25)]  # neither; tensor alone
    found = work(*known, *missing, reading(5.0, tensor=0.5, dram=0.25))
    assert as_tuple(found) == exactly(3.0, 1.5, 0.75, 3.0)


def test_an_activity_that_stays_missing_is_not_reported_any_more() -> None:
    known = [reading(0.0), reading(1.0, tensor=0.5, dram=0.25)]
    silent = [reading(2.0 + k, dram=0.25) for k in range(int(GAP_S))]
    assert as_tuple(work(*known, *silent)) == exactly(1.0, 0.5, 0.25, 1.0)  # it may still come back
    gone = [*known, *silent, reading(2.0 + GAP_S, dram=0.25), reading(3.0 + GAP_S, dram=0.25)]
    assert as_tuple(work(*gone)) == exactly(3.0, NAN, 0.75, 3.0)
    # a part of the total is unknown: it stays so, whatever is reported later
    assert as_tuple(work(*gone, reading(4.0 + GAP_S, tensor=0.5, dram=0.25))) == exactly(4.0, NAN, 1.0, 4.0)


SHARES = st.one_of(st.just(NAN), st.floats(0.0, 1.0))


@given(
    st.floats(210.0, 2000.0),
    st.floats(0.0, 1.0),
    SHARES,
    SHARES,
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8),
)
def test_more_readings_of_the_same_tell_the_same(
    clock_mhz: float, used: float, tensor: float, dram: float, parts: Sequence[float]
) -> None:
    def at(time_s: float) -> Reading:
        return reading(time_s, clock_mhz, used, tensor, dram)

    ends = [math.fsum(parts[: k + 1]) for k in range(len(parts))]
    once, often = work(at(0.0), at(ends[-1])), work(at(0.0), *map(at, ends))
    assert as_tuple(often) == pytest.approx(as_tuple(once), rel=1e-9, nan_ok=True)


# -- on a machine


class BusyCard(Card):
    """A card that reports its activity, constant, and takes a quarter of a second to set its clock."""

    def read(self) -> Reading:
        return replace(super().read(), activity=Activity(1.0, 0.5, 0.25))

    def lock_clock(self, clock_mhz: float) -> None:
        super().lock_clock(clock_mhz)
        self.draw(300.0, 0.25)


def test_a_machine_counts_each_reading_once_whoever_asked_for_it(tmp_path: Path) -> None:
    now_s, cards = [1000.0], [BusyCard("A"), Card("B", 1)]
    devices = NodeDevices(
        tmp_path, cards, clock=lambda: now_s[0], reading_clock=lambda: cards[0].time_s, boot="a boot", claim=False
    )

    def passes(seconds: float) -> None:
        now_s[0] += seconds
        for card in cards:
            card.draw(300.0, seconds)

    passes(1.0)
    devices.turn()
    passes(0.5)
    devices.began("1.1.0", ["A"])  # reads A alone
    devices.want({"A": 705.0})
    devices.turn()  # sets the clock of A and reads it
    passes(0.5)
    devices.turn()
    found = {uuid: GpuWork(*counters_of(row)) for uuid, row in devices.report()["gpus"].items()}
    # A: 1.5 s at 1410 MHz, 0.25 s at the mean of 1410 and 705, and 0.5 s at 705
    busy = 1.5 * 1.41 + 0.25 * 1.0575 + 0.5 * 0.705
    assert as_tuple(found["A"]) == exactly(busy, busy / 2, 2.25 / 4, 2.25)
    assert as_tuple(found["B"]) == exactly(2.82, NAN, NAN, 2.0)
    devices.close()
