"""Clocks of jobs that another scheduler runs: which are set, and how much slower they make a job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from powerflow.api.governance import CapOrder
from powerflow.api.records import NotSure
from powerflow.api.stages import Stage, StageOrder
from tests.live.controller_bench import ROOT
from tests.live.external_bench import BOUND_BY_CLOCK, BOUND_BY_MEMORY, LIMIT, ExternalBench, TrueSpeed


def test_a_protected_job_runs_at_the_highest_clock_and_throws_no_canary_back(slurm: ExternalBench) -> None:
    slurm.service.set_stage(StageOrder(Stage.CANARY), ROOT)
    key = slurm.begin(1, {0: (0,)}, BOUND_BY_MEMORY, protected=True, submitted_s=slurm.now_s - 5 * 3600.0)
    slurm.look()
    slurm.long(1200.0)
    assert slurm.mhz((slurm.spec.nodes[0].name, 0)) == float(slurm.axes["A100"].clocks_mhz[-1])
    slurm.service.set_cap(CapOrder(watts=620.0), ROOT)
    slurm.long(300.0)
    assert slurm.power_w() <= 620.0
    assert slurm.controller.governance.stages.stage_of("vision") is Stage.CANARY
    assert slurm.controller.jobs[slurm.id(key)].placement


def test_a_job_that_is_left_alone_never_gets_a_clock(slurm: ExternalBench) -> None:
    alone = slurm.begin(1, {0: (0,)}, BOUND_BY_MEMORY, untouched=True)
    slurm.begin(2, {0: (1,)}, BOUND_BY_MEMORY)
    slurm.look()
    seen: set[str] = set()
    slurm.long(600.0, lambda: seen.update(slurm.clocks.set_mhz))
    assert len(seen) == 1
    assert slurm.gpus[0].uuid not in seen
    assert slurm.controller.jobs[slurm.id(alone)].energy_j > 0  # but it is metered


def test_a_job_may_be_left_alone_later_and_given_back(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(6)
    assert len(slurm.clocks.set_mhz) == 1
    slurm.running[key] = replace(slurm.running[key], untouched=True)  # scontrol update JobId=1 comment=powerflow:off
    slurm.look()
    slurm.turn(6)
    assert not slurm.clocks.set_mhz
    assert slurm.controller.jobs[slurm.id(key)].reason == "runs as its scheduler started it: nobody may set its clocks"
    slurm.running[key] = replace(slurm.running[key], untouched=False)
    slurm.look()
    slurm.turn(6)
    assert len(slurm.clocks.set_mhz) == 1
    assert {str(rank.name) for rank in slurm.controller.engine.ranks()} == {f"{slurm.id(key)}.1.0"}  # all the time


def test_in_shadow_no_clock_is_set(slurm: ExternalBench) -> None:
    slurm.service.set_stage(StageOrder(Stage.SHADOW), ROOT)
    slurm.begin(1, {0: (0,)}, BOUND_BY_MEMORY)
    slurm.look()
    seen: set[str] = set()
    slurm.long(400.0, lambda: seen.update(slurm.clocks.set_mhz))
    assert not seen
    slurm.service.set_stage(StageOrder(Stage.ENFORCE), ROOT)
    slurm.long(20.0)
    assert len(slurm.clocks.set_mhz) == 1


def test_a_job_that_waits_for_memory_saves_energy_at_a_low_clock(slurm: ExternalBench) -> None:
    slurm.begin(1, {0: (0,)}, BOUND_BY_MEMORY)
    slurm.look()
    slurm.long(3600.0)
    place, top = (slurm.spec.nodes[0].name, 0), float(slurm.axes["A100"].clocks_mhz[-1])
    assert slurm.mhz(place) < top
    assert slurm.draw_w(place) < 310.0  # of 360
    assert BOUND_BY_MEMORY.slowdown(slurm.mhz(place), top) <= LIMIT


@pytest.mark.parametrize("speed", [BOUND_BY_CLOCK, TrueSpeed(0.0, 0.141), TrueSpeed(0.05, 0.07, tensor=0.2)])
def test_no_job_is_slowed_more_than_the_site_allows(slurm: ExternalBench, speed: TrueSpeed) -> None:
    key = slurm.begin(1, {0: (0,)}, speed)
    slurm.look()
    top, place = float(slurm.axes["A100"].clocks_mhz[-1]), (slurm.spec.nodes[0].name, 0)
    now, decided = [0.0], [0.0]

    def note() -> None:
        now.append(speed.slowdown(slurm.mhz(place), top))
        decided.append(speed.slowdown(slurm.controller.jobs[slurm.id(key)].clock_mhz, top))

    slurm.long(3600.0, note)
    assert max(decided) <= LIMIT
    assert sum(now) / len(now) <= LIMIT  # a short trial may be slower: time was saved for it before
    assert max(now) > 0.0


def test_what_was_measured_of_other_work_does_not_count(slurm: ExternalBench) -> None:
    slurm.begin(1, {0: (0,)}, BOUND_BY_MEMORY)
    slurm.look()
    slurm.long(1800.0)
    top, place = float(slurm.axes["A100"].clocks_mhz[-1]), (slurm.spec.nodes[0].name, 0)
    assert slurm.mhz(place) < top
    slurm.speeds[place] = BOUND_BY_CLOCK  # the job begins a second phase, which only computes
    slurm.long(2400.0)
    late: list[float] = []
    slurm.long(600.0, lambda: late.append(BOUND_BY_CLOCK.slowdown(slurm.mhz(place), top)))
    assert max(late) <= LIMIT


def test_a_power_cap_holds_for_jobs_of_another_scheduler(slurm: ExternalBench) -> None:
    for number in range(4):
        slurm.begin(number, {0: (number,)}, BOUND_BY_CLOCK)
    slurm.look()
    slurm.turn(10)
    before_w = slurm.power_w()
    slurm.service.set_cap(CapOrder(watts=1300.0), ROOT)
    slurm.turn(20)
    assert slurm.power_w() <= 1300.0 < before_w


def test_a_cap_that_clocks_cannot_keep_stops_no_job(slurm: ExternalBench) -> None:
    keys = [slurm.begin(number, {0: (number,)}, BOUND_BY_CLOCK) for number in range(4)]
    slurm.look()
    slurm.turn(10)
    with pytest.raises(NotSure, match="cannot stop keep cluster at"):
        slurm.service.set_cap(CapOrder(watts=500.0), ROOT)
    slurm.service.set_cap(CapOrder(watts=500.0, sure=True), ROOT)
    for _ in range(3):
        slurm.turn(10)
        slurm.look()
    lowest = float(slurm.axes["A100"].clocks_mhz[0])
    assert [slurm.mhz((slurm.spec.nodes[0].name, gpu)) for gpu in range(4)] == [lowest] * 4
    assert all(slurm.controller.jobs[slurm.id(key)].known for key in keys)
    assert any("which cannot be stopped" in line for line in slurm.controller.governance_step.notices)
