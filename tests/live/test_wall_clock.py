"""The controller's clock is the machine's, and time that passes is not the time of day."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path

import pytest

from powerflow.live.wall_clock import SchedulerTime, WallClock, moved
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.events import ClockSet, GpuFailed, PowerCapSet
from tests.live.controller_bench import Bench
from tests.scheduler.situations import SchedulerDriver, submitted


class Machine:
    """Its two clocks, both the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.up_s = 1e9, 500.0
        monkeypatch.setattr(time, "time", lambda: self.wall_s)
        monkeypatch.setattr(time, "monotonic", lambda: self.up_s)

    def passes(self, seconds: float, *, wall_s: float | None = None) -> None:
        self.up_s += seconds
        self.wall_s += seconds if wall_s is None else wall_s


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("by_s", [3600.0, -3600.0, 86400.0 * 365, -2.0])
def test_it_follows_at_once_when_the_clock_is_set(machine: Machine, by_s: float) -> None:
    clock = WallClock()
    machine.passes(10.0)
    assert clock.both() == (1e9 + 10.0, 0.0)
    machine.wall_s += by_s
    now_s, set_s = clock.both()
    assert now_s == pytest.approx(machine.wall_s)
    assert set_s == pytest.approx(by_s)
    machine.passes(10.0)
    assert clock() == pytest.approx(machine.wall_s)
    assert clock.set_s == pytest.approx(by_s)


def test_a_machine_that_slept_was_set(machine: Machine) -> None:
    clock = WallClock()
    machine.passes(0.0, wall_s=7200.0)  # the monotonic clock stands still in sleep
    assert clock() == pytest.approx(machine.wall_s)
    assert clock.set_s == pytest.approx(7200.0)


def test_small_differences_are_caught_up_with_and_it_never_goes_back(machine: Machine) -> None:
    clock, seen = WallClock(), []
    for step in range(200):
        machine.passes(0.25, wall_s=0.25 + (-0.6 if step == 20 else 0.5 if step == 100 else 0.0))
        seen.append(clock())
    assert all(b > a for a, b in pairwise(seen))
    assert seen[-1] == pytest.approx(machine.wall_s)
    assert clock.set_s == 0.0


def test_the_scheduler_is_told_a_time_that_was_never_set() -> None:
    times = SchedulerTime()
    assert times.follow(3600.0) == ClockSet(3600.0)
    assert times.follow(3000.0) == ClockSet(-600.0)
    assert times.scheduler(10_000.0) == 7000.0
    assert times.wall(7000.0) == 10_000.0
    assert times.wall(math.inf) == math.inf
    told = times.told(PowerCapSet(PowerCap(500.0, start_s=10_000.0, deadline_s=10_060.0)))
    assert isinstance(told, PowerCapSet)
    assert (told.cap.start_s, told.cap.end_s, told.cap.deadline_s) == (7000.0, math.inf, 7060.0)
    assert times.told(GpuFailed("n0", 1)) == GpuFailed("n0", 1)
    assert [moved(s, 5.0) for s in (1.0, math.inf, -math.inf)] == [6.0, math.inf, -math.inf]


@pytest.mark.parametrize("by_s", [3600.0, -3600.0])
def test_a_cap_is_in_force_by_the_time_of_day(by_s: float) -> None:
    driver = SchedulerDriver("fifo", "1x4:A100")
    driver.at(0, submitted("a", gpus=4, gpus_max=4), PowerCapSet(PowerCap(300.0, start_s=7200.0, end_s=10_800.0)))
    slot = driver.scheduler.slot("a")
    assert driver.scheduler.ledger.rows["gpus"][slot] == 4
    plan = driver.at(60, ClockSet(by_s))
    assert plan.decided
    start_s = 7200.0 - by_s  # as the scheduler counts
    caps = driver.scheduler.caps
    (scope,) = caps.scopes()
    assert caps.limit_w(scope, start_s - 1.0, start_s - 1.0) > 300.0
    assert caps.limit_w(scope, start_s + 1.0, start_s + 1.0) == 300.0
    assert caps.limit_w(scope, start_s + 3601.0, start_s + 3601.0) > 300.0


class Settable(WallClock):
    """The wall clock of a bench, which the test sets."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench

    def both(self) -> tuple[float, float]:
        return 1e9 + self.bench.engine.now_s + self.set_s, self.set_s


@pytest.mark.parametrize("by_s", [3 * 3600.0, -3 * 3600.0])
def test_a_controller_goes_on_when_the_clock_is_set(tmp_path: Path, by_s: float) -> None:
    bench = Bench(tmp_path, "1x4:A100")
    try:
        clock = Settable(bench)
        bench.controller.clock = clock
        bench.steps_total = 1_000_000
        job = bench.submit(gpus=1, model="resnet50")
        bench.until_trains(job)
        failing = bench.submit(gpus=1, model="resnet50", retries=2)
        bench.until_trains(failing)
        for name in bench.engine.running():
            if name.gang == failing:
                bench.engine.end(name, 1)
        bench.until(lambda: bench.controller.jobs[failing].failures == 1)
        waits_s = bench.controller.jobs[failing].eligible_s - clock()
        used_s, at_s, epoch = (
            bench.controller.jobs[job].gpu_s,
            bench.engine.now_s,
            bench.controller.jobs[job].epoch,
        )
        clock.set_s += by_s
        bench.turn(8)
        passed_s = bench.engine.now_s - at_s
        entry = bench.controller.jobs[job]
        assert entry.gpu_s - used_s <= 4 * (passed_s + 2.0), "that is no time in which GPUs were held"
        assert entry.gpu_s >= used_s
        assert entry.epoch == epoch, "nobody is stopped for it"
        assert bench.controller.turned_s == pytest.approx(clock(), abs=5.0)
        left_s = bench.controller.jobs[failing].eligible_s - clock()
        assert left_s <= waits_s + 1.0, "who waits a while waits no longer for it"
        bench.until(lambda: bench.controller.jobs[failing].placement != ())
        later = bench.submit(gpus=1, model="resnet50")
        bench.until_trains(later)
        assert bench.job(later).submitted_s == pytest.approx(clock(), abs=120.0)
    finally:
        bench.close()
