"""Taking PowerFlow into use: nobody acts, somebody watches, a few are acted on, all are; and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.api.governance import CapOrder
from powerflow.api.records import JobState, Refused
from powerflow.api.stages import Stage, StageOrder
from powerflow.errors import InputError
from powerflow.store.database import StoreError
from tests.gangs.fake_rank import FakeRank
from tests.live.controller_bench import ADA, ROOT, Bench
from tests.live.governance.test_budgets import past_job, run_for
from tests.live.governance.test_caps import JOB
from tests.slow import slow


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, explore_steps=0)
    yield bench
    bench.close()


def mode(bench: Bench, stage: str, *projects: str) -> None:
    bench.service.set_stage(StageOrder(Stage(stage), projects or None, sure=True), ROOT)


def test_one_command_forward_and_back_audited(bench: Bench) -> None:
    (all_,) = bench.service.stages()
    assert (all_.project, all_.stage, all_.by) == ("", Stage.ENFORCE, "")
    mode(bench, "observe")
    mode(bench, "canary", "vision", "speech")
    everybody, speech, vision = bench.service.stages()
    assert (everybody.stage, speech.stage, vision.stage) == (Stage.OBSERVE, Stage.CANARY, Stage.CANARY)
    assert vision.by == "root"
    bench.restart()
    assert bench.controller.governance.stages.stage_of("vision") is Stage.CANARY
    mode(bench, "enforce")
    assert [record.stage for record in bench.service.stages()] == [Stage.ENFORCE], "of everybody, without exception"
    actions = [(e.action, e.target, e.fields["stage"]) for e in bench.service.audit().items if e.action == "mode set"]
    assert actions == [
        ("mode set", "all projects", "observe"),
        ("mode set", "vision", "canary"),
        ("mode set", "speech", "canary"),
        ("mode set", "all projects", "enforce"),
    ]


@pytest.mark.parametrize("stage", ["observe", pytest.param("replay", marks=slow), "shadow"])
def test_where_nobody_acts_jobs_run_as_asked_and_nothing_is_touched(bench: Bench, stage: str) -> None:
    mode(bench, stage)
    bench.steps_total = 25
    jobs = [bench.submit(**JOB) for _ in range(6)]  # each asks for 1 to 4: 2 as asked; eight GPUs
    for _ in range(180):
        bench.turn()
        assert bench.clocks.set_mhz == {}
    held = {job: {entry.gpus} for job, entry in bench.controller.jobs.items()}
    assert not held, "all have ended"
    for job in jobs:
        record = bench.job(job)
        assert record.state is JobState.COMPLETED
        assert record.rescales == 0
        rows = [row for row in bench.service.decisions(job).items if not row.would]
        assert {row.gpus for row in rows if row.gpus} == {2}, "never changed"
    assert {name.epoch for name in bench.engine.launches} == {1}
    assert len(bench.engine.launches) == 12
    assert bench.engine.signals == []
    starts = [bench.job(job).started_s or 0.0 for job in jobs]
    assert starts == sorted(starts), "first come, first served"


def test_shadow_says_what_would_be_done_and_how_right_it_was(bench: Bench) -> None:
    mode(bench, "shadow")
    bench.steps_total = 60
    for _ in range(16):
        bench.submit(**JOB)
    bench.turn()
    bench.until(lambda: not bench.controller.jobs, turns=1200)
    (record,) = bench.service.stages()
    assert record.ended == 16
    assert record.compared == 16
    assert record.judged > 0
    assert record.within_time is not None
    assert record.energy_change is not None
    rows = bench.service.decisions("16").items
    wish = next(row for row in rows if row.would and row.gpus)
    assert wish.reason.startswith("would run on ")
    assert wish.jct_s is not None
    assert wish.energy_j is not None
    told = next(row for row in rows if not row.would and row.gpus)
    assert told.jct_low_s is not None
    assert told.jct_high_s is not None
    assert told.jct_low_s <= told.jct_high_s
    bench.restart()
    assert len(bench.controller.governance.decision_log.calibrations["time"].residuals) == 16


def every_place(bench: Bench) -> list[tuple[str, int]]:
    power = bench.controller.power
    return [(name, gpu.index) for name in power.node_names() for gpu, _ in power.readings(name)]


def test_a_canary_is_acted_on_and_its_neighbours_are_not(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    mode(bench, "observe")
    mode(bench, "canary", "vision")
    watched, canary = bench.submit(**JOB), bench.submit(**JOB, project="vision")
    run_for(bench, 10.0)
    entries = bench.controller.jobs
    assert entries[watched].gpus == 2
    assert entries[watched].why == "runs as its owner requested: PowerFlow does not manage its project"
    assert entries[canary].gpus == 4, "as many as it can use"
    places = {(node, number) for node, numbers in entries[canary].placement for number in numbers}
    assert {place for place in every_place(bench) if bench.controller.power.asked_mhz(place)} == places, (
        "no other clock was set"
    )
    mode(bench, "observe")
    run_for(bench, 3.0)
    assert not any(bench.controller.power.asked_mhz(place) for place in every_place(bench)), "clocks go back at once"
    assert entries[canary].gpus == 4, "and nobody is touched"


def test_back_from_enforce_nothing_more_is_touched(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    jobs = [bench.submit(**JOB) for _ in range(2)]
    run_for(bench, 10.0)
    before = {job: bench.controller.jobs[job].placement for job in jobs}
    assert bench.clocks.set_mhz
    mode(bench, "observe")
    run_for(bench, 2.0)
    launches = len(bench.engine.launches)
    for _ in range(2):
        bench.submit(**JOB)
    run_for(bench, 60.0)
    assert {job: bench.controller.jobs[job].placement for job in jobs} == before
    assert len(bench.engine.launches) == launches, "all GPUs are taken: who is new waits"
    assert bench.clocks.set_mhz == {}


def test_a_canary_that_slows_a_protected_job_goes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 1_000_000
    mode(bench, "canary")
    job = bench.submit(**JOB, priority="protected")
    bench.until_trains(job)
    monkeypatch.setattr("powerflow.live.governance.step.held_back", lambda scheduler, now_s: {job: 75.0})
    bench.turn(2)
    (record,) = bench.service.stages()
    assert (record.stage, record.by) == (Stage.SHADOW, "powerflow")
    assert record.why == f"protected job {job} is 75 s behind its promise"
    assert not bench.controller.scheduler.managed.manages("")
    said = [event.text for event in bench.store.events(limit=1000).items if event.kind == "canary"]
    assert said == [f"stage of all projects returns from canary to shadow: {record.why}"]
    assert [entry.user for entry in bench.service.audit().items if entry.action == "mode set"] == ["root", "powerflow"]


def test_a_canary_whose_jobs_miss_their_predictions_twice_goes_back(bench: Bench) -> None:
    """Its ranks take four times as long as before, from one day to the next."""
    mode(bench, "shadow", "vision")
    bench.steps_total = 40
    for _ in range(16):
        bench.submit(**JOB, project="vision")
    bench.turn()
    bench.until(lambda: not bench.controller.jobs, turns=1600)
    mode(bench, "canary", "vision")
    bench.engine.play = lambda spec: Slow(bench.engine.fake_rank(spec, bench.steps_total), 4)
    for _ in range(20):
        bench.submit(**JOB, project="vision")
    for _ in range(3000):
        bench.turn()
        if bench.controller.governance.stages.stage_of("vision") is Stage.SHADOW:
            break
    record = bench.service.stages()[1]
    assert (record.stage, record.by) == (Stage.SHADOW, "powerflow")
    assert "of jobs missed its prediction twice in a row" in record.why


class Slow:
    """A rank that takes so many times as long for everything."""

    def __init__(self, rank: FakeRank, times: int) -> None:
        self.rank, self.times, self.turns = rank, times, 0

    def advance(self) -> int | None:
        self.turns += 1
        return None if self.turns % self.times else self.rank.advance()


def test_a_cap_needs_somebody_to_act_on(bench: Bench) -> None:
    mode(bench, "shadow")
    with pytest.raises(Refused, match="no jobs are managed"):
        bench.service.set_cap(CapOrder(watts=500.0), ROOT)
    mode(bench, "enforce")
    bench.service.set_cap(CapOrder(watts=1000.0), ROOT)


def saved(*_: object) -> tuple[float, float, float, float]:
    return 100.0, 2e6, 80.0, 1.5e6


def test_last_days_are_replayed_while_nobody_acts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.compare = saved
    bench.restart()
    for hours in (24.5, 10.0):
        past_job(bench, hours)
    bench.turn(3)
    assert bench.service.savings() is None
    assert not replays(bench), "who is acted on needs no such word"
    mode(bench, "replay")
    bench.turn(1)
    replaying = bench.controller.governance.savings._replaying
    assert replaying is not None
    assert replaying._answer.poll(60.0)
    bench.turn(1)
    found = bench.service.savings()
    assert found is not None
    assert (found.days, found.jobs) == (1, 1)
    assert (found.asked_jct_s, found.asked_j, found.acted_jct_s, found.acted_j) == (100.0, 2e6, 80.0, 1.5e6)
    bench.restart()
    bench.turn(3)
    assert bench.service.savings() == found
    assert not replays(bench), "the next is due in a day"
    bench.close()


def replays(bench: Bench) -> bool:
    return bench.controller.governance.savings._replaying is not None


def test_the_simulator_compares_a_live_clusters_days(bench: Bench) -> None:
    from powerflow.live.governance.past_days import past_days
    from powerflow.simulate.day_replay import compare_days

    for hours in (1.0, 1.1, 30.0):
        past_job(bench, hours)
    controller = bench.controller
    axes = {name: pool.axes for name, pool in controller.scheduler.pools.items()}
    past = past_days(bench.store, controller.learning, axes, controller.clock(), 7)
    asked_s, asked_j, acted_s, acted_j = compare_days(bench.spec, axes, past.costs, past.days, 0.05)
    assert 0 < acted_j < asked_j, "at such a price of a joule"
    assert asked_s > 0
    assert acted_s > 0


def test_a_policy_that_fails_in_shadow_does_no_harm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    mode(bench, "shadow")
    bench.steps_total = 60
    monkeypatch.setattr("powerflow.scheduler.rules.rollout.Rollout.wish", fails)
    job = bench.submit(**JOB)
    bench.until_state(job, JobState.COMPLETED)
    assert not [row for row in bench.service.decisions(job).items if row.would]


def test_a_stage_of_one_project_says_nothing_of_the_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    mode(bench, "canary", "vision")
    bench.first = Stage.OBSERVE
    bench.restart()
    assert bench.controller.governance.stages.stage_of("nlp") is Stage.OBSERVE, "as the controller was started"
    mode(bench, "enforce")
    bench.restart()
    assert bench.controller.governance.stages.stage_of("nlp") is Stage.ENFORCE, "as somebody said"
    bench.close()


def test_no_project_is_not_everybody(bench: Bench) -> None:
    with pytest.raises(InputError, match="no project is named"):
        bench.service.set_stage(StageOrder(Stage.OBSERVE, ()), ROOT)
    assert bench.controller.governance.stages.anybody()


def test_the_scheduler_is_told_though_the_answer_cannot_be_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise StoreError("locked", retry=True)

    monkeypatch.setattr(bench.store.decisions, "outcomes", fails)
    with pytest.raises(StoreError):
        mode(bench, "observe")
    bench.turn(1)
    assert not bench.controller.scheduler.managed.manages("")


def test_a_canary_that_cannot_go_back_now_does_so_the_next_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    mode(bench, "canary")
    stages, govern = bench.controller.governance.stages, bench.store.govern

    def fails(*_: object) -> None:
        raise StoreError("locked", retry=True)

    bad = {"time": 1.0}
    for _ in range(9):
        assert stages.ended("", bad, 1.0) == ""
    monkeypatch.setattr(bench.store, "govern", fails)
    with pytest.raises(StoreError):
        stages.ended("", bad, 1.0)
    monkeypatch.setattr(bench.store, "govern", govern)
    assert stages.ended("", {}, 2.0).startswith(
        "stage of all projects returns from canary to shadow: time of jobs missed"
    )


def test_what_a_canary_is_judged_by_is_fixed_when_it_begins(bench: Bench) -> None:
    for _ in range(30):
        bench.controller.governance.decision_log.calibrations["time"].add(1.0, 1.5)
    mode(bench, "canary", "vision")
    for _ in range(400):
        bench.controller.governance.decision_log.calibrations["time"].add(1.0, 9.0)
    bench.restart()
    stages = bench.controller.governance.stages
    assert [stages.ended("vision", {"time": 0.405}, 1.0) for _ in range(30)] == [""] * 30


def test_a_protected_job_that_waits_for_watched_ones_is_no_canarys_fault(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    mode(bench, "observe")
    mode(bench, "canary", "vision")
    for _ in range(2):
        bench.submit(**{**JOB, "gpus": "4"})
    run_for(bench, 5.0)
    bench.submit(**JOB, project="vision", priority="protected")
    run_for(bench, 200.0)
    assert bench.controller.governance.stages.stage_of("vision") is Stage.CANARY


def test_a_protected_job_that_was_held_by_its_owner_is_no_canarys_fault(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    mode(bench, "canary")
    job = bench.submit(**JOB, priority="protected")
    bench.service.hold(job, ADA)
    run_for(bench, 300.0)
    bench.service.release(job, ADA)
    bench.until_trains(job)
    assert bench.controller.governance.stages.stage_of("") is Stage.CANARY


def test_a_watched_job_runs_on_where_it_is_believed_that_it_cannot(bench: Bench) -> None:
    """Its class has learnt of a batch too small for its GPUs: from another job, or from itself."""
    bench.steps_total = 1_000_000
    mode(bench, "observe")
    job = bench.submit(rescale="in-place", gpus="4", batch={"global": 64})
    bench.until_trains(job)
    entry = bench.controller.jobs[job]
    bench.controller._table.emit(*bench.controller.learning.batch_is(entry.kind.name, 2))
    run_for(bench, 20.0)
    assert entry.gpus == 4


def test_nothing_is_measured_at_a_clock_that_nobody_set(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(**JOB, work={"iterations": 1_000_000})
    run_for(bench, 20.0)
    mode(bench, "observe")
    bench.turn(1)
    before = len(bench.store.observations.all()) + len(bench.controller._table._measurements)
    run_for(bench, 60.0)
    bench.controller.finish()
    seen = bench.store.observations.all()[before:]
    assert bench.controller.jobs[job].gpus
    assert all(each.observation.clock_mhz is None for each in seen)
