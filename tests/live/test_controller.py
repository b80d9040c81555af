"""A job's life under the controller, whatever its owner, its ranks, its nodes and the store do meanwhile."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from powerflow.api.governance import DrainOrder
from powerflow.api.pages import RecordFilter
from powerflow.api.records import EventRecord, JobState, NotFound, Refused
from powerflow.engine.protocol import RankSpec
from powerflow.gangs.types import Rescaled
from powerflow.live import controller as module
from powerflow.store.database import Database, LostClaim, StoreError
from powerflow.store.leader_lease import LeaderLease
from tests.gangs.fake_engine import Script
from tests.gangs.fake_rank import Habits
from tests.live.controller_bench import ADA, ROOT, Bench, names
from tests.live.kinds import MODES, H, Q, R, script


@pytest.mark.parametrize("mode", MODES)
def test_a_job_s_whole_life(bench: Bench, mode: str) -> None:
    if mode != "in-place":
        script(bench)
    job = bench.submit(rescale=mode, **MODES[mode])
    assert bench.job(job).state is Q
    bench.until_state(job, JobState.COMPLETED)
    record = bench.service.job(job).record
    assert record.exit == "completed"
    assert record.steps == {"in-place": 40, "restart": 30, "none": 0}[mode]
    assert record.started_s is not None
    assert bench.ends(job) == ["completed"]
    bench.turn(5)
    assert not bench.gangs.holding()
    assert not bench.clocks.set_mhz, "clocks are as they were"
    assert bench.controller.jobs == {}


@pytest.mark.parametrize("state", [Q, R, H])
@pytest.mark.parametrize("heard", [False, True])
def test_a_job_is_cancelled_wherever_it_is(bench: Bench, state: JobState, heard: bool) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus=1)
    if heard or state is R:
        bench.turn()
    if state is R:
        bench.until_trains(job)
    if state is H:
        bench.service.hold(job, ADA)
        bench.turn(heard)
    assert bench.service.cancel(job, ADA).state is JobState.CANCELLED
    bench.until(lambda: not bench.engine.running())
    bench.turn(5)
    assert bench.ends(job) == ["cancelled"]
    assert not bench.gangs.holding()
    assert bench.controller.jobs == {}
    with pytest.raises(Refused):
        bench.service.release(job, ADA)


def test_nobody_is_put_where_a_cancelled_job_still_runs(bench: Bench) -> None:
    bench.engine.play = lambda spec: (
        Script(10_000) if spec.name.gang == "1" else bench.engine.fake_rank(spec, bench.steps_total)
    )
    old = bench.submit(rescale="restart", gpus=4, checkpoint={"grace": 60})
    bench.until(lambda: len(bench.engine.running()) == 4)
    bench.engine.stubborn.update(bench.engine.running())
    (node,) = {bench.engine.statuses[name].node for name in bench.engine.running()}
    bench.service.cancel(old, ADA)
    bench.turn()
    assert bench.engine.running(), "it is given time to leave"
    new = bench.submit(gpus=4)
    bench.until_state(new, JobState.COMPLETED)
    assert bench.engine.running(old), "all the while it was still there"
    assert {bench.engine.specs[name].node for name in names(bench.engine, new)} != {node}
    bench.until(lambda: not bench.engine.running(old))
    bench.turn(2)
    bench.steps_total = 1000
    for _ in range(2):
        bench.until_trains(bench.submit(gpus=4))
    assert len(bench.engine.running()) == 8, "then its GPUs are used again"


def test_a_job_that_is_released_while_it_still_leaves_runs_again(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus=2)
    bench.until_trains(job)
    bench.service.hold(job, ADA)
    bench.turn()
    bench.service.release(job, ADA)
    before = bench.controller.jobs[job].steps
    bench.until(lambda: bench.controller.jobs[job].steps > before + 5)
    assert len(bench.controller.scheduler.ledger.slot_of) == 1


def test_a_job_that_cannot_go_on_where_it_stopped_is_never_stopped_for_another(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(10_000)
    first = [bench.submit(run="sleep 1000", rescale="none", gpus=2) for _ in range(4)]
    bench.until(lambda: len(bench.engine.running()) == 4)
    more = [bench.submit(gpus="1..8", batch={"global": 64}, priority=each) for each in ("protected", "high", "normal")]
    bench.turn(100)
    assert {name.gang for name in bench.engine.running()} == set(first)
    assert all(len(names(bench.engine, job)) == 1 for job in first), "none was started twice"
    assert bench.service.job(more[0]).record.reason.startswith("waits for GPUs")


def test_what_a_rescale_costs_is_learned_and_outlives_the_controller(bench: Bench) -> None:
    def believed_s() -> float:
        driver = bench.controller.scheduler
        return float(driver.ledger.rows["pause_s"][driver.slot(job)])

    bench.steps_total = 100_000
    job = bench.submit(gpus="1..4", batch={"global": 64})
    bench.until_trains(job)
    assert believed_s() == 1.0, "what is taken before one was measured"
    bench.controller._gang_events._waiting.extend([Rescaled(job, 0.2, 4, 2), Rescaled(job, 9.0, 2, 2)])
    bench.turn(2)
    assert believed_s() == pytest.approx(0.2), "a gang of which one rank was replaced was not rescaled"
    bench.controller._gang_events._waiting.extend([Rescaled(job, 1.2, 2, 4)])
    bench.turn(2)
    assert believed_s() == pytest.approx(0.7 * 0.2 + 0.3 * 1.2)
    bench.restart()
    bench.turn(2)
    assert believed_s() == pytest.approx(0.5)


def test_a_held_job_gives_back_what_it_has_and_goes_on_where_it_was(bench: Bench) -> None:
    bench.steps_total = 60
    job = bench.submit(gpus=2)
    bench.until_trains(job)
    bench.service.hold(job, ADA)
    bench.until(lambda: not bench.engine.running())
    bench.turn(20)
    steps = bench.controller.jobs[job].steps
    assert (bench.job(job).state, bool(bench.engine.running())) == (H, False)
    assert steps > 0
    bench.restart()
    bench.turn(5)
    assert not bench.engine.running(), "it is held, also by the next controller"
    bench.service.release(job, ADA)
    bench.until_state(job, JobState.COMPLETED)
    assert bench.job(job).steps == 60
    assert bench.job(job).failures == 0


def test_who_is_held_at_the_very_moment_of_a_decision_gets_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.submit(gpus=1)
    decide = bench.controller._decide

    def decide_and_hold(now_s: float) -> None:
        decide(now_s)
        if bench.job(job).state is Q:
            bench.service.hold(job, ADA)

    monkeypatch.setattr(bench.controller, "_decide", decide_and_hold)
    bench.turn(10)
    assert bench.job(job).state is H
    assert not names(bench.engine, job)


def test_a_job_that_fails_at_once_for_ever_is_tried_a_few_times_with_pauses(bench: Bench) -> None:
    launched_s: list[float] = []
    bench.engine.watch = lambda spec: launched_s.append(bench.engine.now_s)
    script(bench, lasts=1, code=3)
    job = bench.submit(rescale="none", gpus=1, retries=3)
    bench.until_state(job, JobState.FAILED)
    assert len(launched_s) == 1 + 3
    pauses = [after - before for before, after in itertools.pairwise(launched_s)]
    assert pauses[0] >= 1.0
    assert pauses[1] >= 2.0
    assert pauses[2] >= 4.0
    detail = bench.service.job(job)
    assert "exited with code 3" in detail.record.exit
    assert detail.last_lines == ("step 1",)
    assert detail.record.failures == 1 + 3
    assert bench.ends(job) == ["failed"]
    bench.turn(20)
    assert len(launched_s) == 4


@pytest.mark.parametrize(("gpus", "end"), [(1, JobState.COMPLETED), (2, JobState.FAILED)])
def test_a_script_that_never_joins_ends_once_and_is_told_why(bench: Bench, gpus: int, end: JobState) -> None:
    script(bench)
    job = bench.submit(gpus=gpus, batch={"global": 64}, retries=3)
    bench.until_state(job, end)
    assert len(names(bench.engine, job)) == gpus
    (told,) = [event for event in bench.store.events(only=RecordFilter(job_id=job)).items if event.kind == end.value]
    for text in (bench.job(job).exit, told.text):
        assert "its script does not use powerflow.elastic; use it (`powerflow elastic check`" in str(text)


def test_a_change_by_restart_is_told_and_counted(bench: Bench) -> None:
    script(bench, lasts=100_000)
    job = bench.submit(rescale="restart", **MODES["restart"])
    bench.until_trains(job)
    active = bench.controller.jobs[job]
    assert active.gpus == 4
    others = [bench.submit(run="sleep 1000", rescale="none", gpus=1) for _ in range(2)]  # on the other node
    bench.until(lambda: len(bench.gangs.holding()) == 4 + len(others))
    bench.service.drain(active.placement[0][0], DrainOrder("", sure=True), ROOT)

    def told() -> list[EventRecord]:
        return list(bench.store.events(only=RecordFilter(job_id=job, kinds=["rescaled"])).items)

    bench.until(lambda: bool(told()))
    assert told()[0].text.startswith("from 4 to 2 GPUs in ")
    assert bench.service.job(job).record.rescales == 1


def test_a_move_says_from_where_to_where(bench: Bench) -> None:
    """Four GPUs before and after: nothing was rescaled."""
    script(bench, lasts=100_000)
    job = bench.submit(rescale="restart", progress=MODES["restart"]["progress"], gpus=4)
    bench.until_trains(job)
    active = bench.controller.jobs[job]
    (home,) = [node for node, _ in active.placement]
    bench.service.drain(home, DrainOrder("", sure=True), ROOT)

    def told(*kinds: str) -> list[str]:
        return [event.text for event in bench.store.events(only=RecordFilter(job_id=job, kinds=kinds)).items]

    bench.until(lambda: bool(told("moved", "rescaled", "recovered")))
    (other,) = [node for node, _ in active.placement]
    (text,) = told("moved")
    assert text.startswith(f"from node {home} to node {other} in ")
    reasons = [decision.reason for decision in bench.service.decisions(job).items]
    assert f"moved to node {other}: node {home} is drained" in reasons
    bench.controller._gang_events._waiting.append(Rescaled(job, 2.0, 4, 4))
    bench.turn()
    assert told("recovered") == ["trains on 4 GPUs again after a pause of 2.00 s"], "a lost rank was replaced"
    assert not told("rescaled")
    assert bench.service.job(job).record.rescales == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_stop_and_a_start_on_other_gpus_is_told_and_counted(bench: Bench, restarted: bool) -> None:
    script(bench, lasts=100_000)
    job = bench.submit(rescale="restart", **MODES["restart"])
    bench.until_trains(job)
    had = bench.controller.jobs[job].gpus
    bench.service.hold(job, ADA)
    bench.until(lambda: job not in bench.gangs.holding().values())
    others = [
        bench.submit(run="sleep 1000", rescale="none", gpus=1) for _ in range(bench.controller.power.gpu_count - 1)
    ]
    bench.until(lambda: len(bench.gangs.holding()) == len(others))
    if restarted:
        bench.restart()
    bench.service.release(job, ADA)
    bench.until(lambda: bench.controller.jobs[job].training)
    bench.turn()
    assert had > 1
    (told,) = [event for event in bench.store.events(only=RecordFilter(job_id=job)).items if event.kind == "rescaled"]
    assert told.text == f"from {had} to 1 GPU when it started again"
    assert bench.service.job(job).record.rescales == 1
    bench.service.hold(job, ADA)
    bench.until(lambda: job not in bench.gangs.holding().values())
    bench.service.release(job, ADA)
    bench.until(lambda: bench.controller.jobs[job].training)
    bench.turn()
    assert bench.service.job(job).record.rescales == 1, "on one GPU again"


def test_failures_outlive_the_controller(bench: Bench) -> None:
    script(bench, lasts=1, code=1)
    job = bench.submit(rescale="none", gpus=1, retries=2)
    for _ in range(40):
        bench.turn(3)
        bench.restart()
        if bench.job(job).state.ended:
            break
    assert bench.job(job).state is JobState.FAILED
    assert bench.ends(job) == ["failed"]
    assert len(names(bench.engine, job)) == 3


def test_a_program_that_is_not_there_fails_and_says_so(bench: Bench) -> None:
    from powerflow.engine.protocol import EngineError

    def refuse(spec: RankSpec) -> None:
        raise EngineError("no such command")

    bench.engine.watch = refuse
    job = bench.submit(rescale="none", gpus=1, retries=0)
    bench.until_state(job, JobState.FAILED)
    assert "no such command" in bench.job(job).exit


# --- the store fails ---


@pytest.mark.parametrize("first", range(0, 24, 6))
def test_nothing_is_done_that_was_not_stored_and_all_goes_on_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """The store refuses writes from the n-th on, for a while, in the middle of whatever was going on."""
    writes = itertools.count()
    broken = range(first, first + 15)
    real = Database.write_claimed

    def write(self: Database) -> Any:
        if next(writes) in broken:
            raise StoreError("disk is full", retry=True)
        return real(self)

    def watch(spec: RankSpec) -> None:
        intent = next(i for i in bench.store.intents.active() if i.job_id == spec.name.gang)
        assert intent.epoch == spec.name.epoch, "launched before it was written down"
        assert spec.node in dict(intent.placement)

    bench.engine.watch = watch
    jobs = [bench.submit(gpus="1..2", batch={"global": 64}) for _ in range(3)]
    monkeypatch.setattr(Database, "write_claimed", write)
    bench.until(lambda: next(writes) > broken.stop and not bench.store.active())
    assert [bench.job(job).state for job in jobs] == [JobState.COMPLETED] * 3
    assert [bench.ends(job) for job in jobs] == [["completed"]] * 3
    assert "disk is full" not in bench.controller.notices.shown().values()


def test_a_controller_whose_lease_is_over_keeps_its_hands_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 10_000
    bench.submit(gpus=1)
    bench.until(lambda: bool(bench.engine.running()))
    monkeypatch.setattr(LeaderLease, "renew", lambda *_: (_ for _ in ()).throw(StoreError("is locked", retry=True)))
    bench.turn(80)
    waiting = bench.submit(gpus=1)
    bench.turn(5)
    assert not names(bench.engine, waiting)
    assert not bench.service.healthy()["ok"]
    assert bench.engine.running(), "ranks run on"
    monkeypatch.undo()
    bench.until(lambda: bool(names(bench.engine, waiting)))
    assert bench.service.healthy()["ok"]


def test_of_two_controllers_one_works(bench: Bench, tmp_path: Path) -> None:
    first, first_store, first_gangs = bench.controller, bench.store, bench.gangs
    with pytest.raises(Refused, match="another controller"):
        bench.start()
    bench.gangs.close()
    bench.store.close()
    bench.engine.now_s += 31.0  # the first slept past its lease
    bench.start()
    with pytest.raises(LostClaim):
        first.turn()
    first_gangs.close()
    first_store.close()
    bench.turn()


# --- what is kept ---


def test_logs_of_those_who_ended_longest_ago_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGS_KEPT", 2)
    script(bench, lasts=2)
    jobs = []
    for _ in range(4):
        jobs.append(bench.submit(rescale="none", gpus=1))
        bench.until_state(jobs[-1], JobState.COMPLETED)
    bench.turn(3)
    assert {name.gang for name in bench.engine.statuses} == set(jobs[2:])
    assert bench.service.log(jobs[0]).text == ""
    assert bench.service.log(jobs[3]).text.startswith("step 1")
    bench.restart()
    assert bench.service.log(jobs[3]).text.startswith("step 1")


@pytest.mark.parametrize("mode", MODES)
def test_every_rank_whose_log_there_is_is_named_and_its_log_can_be_read(bench: Bench, mode: str) -> None:
    """The first launch of a rank dies in its third turn; another takes its place, or the whole gang begins anew."""
    plays = iter([Script(3, 1, line="boom\n")])
    if mode == "in-place":
        crash = iter([Habits(crashes_at=20)])
        bench.engine.play = lambda spec: bench.engine.fake_rank(spec, 10_000, next(crash, None))
    else:
        bench.engine.play = lambda spec: next(plays, None) or Script(10_000, line="step {turn}\n")
    job = bench.submit(rescale=mode, **MODES[mode], retries=3)
    bench.until(lambda: any(rank["state"] == "ended" for rank in bench.service.job(job).ranks))
    before = len(bench.engine.launches)
    bench.until(lambda: len(bench.engine.launches) > before)
    bench.turn(3)
    ranks = bench.service.job(job).ranks
    states = [rank["state"] for rank in ranks]
    assert set(states) == {"running", "ended"}
    assert states == sorted(states, reverse=True), "those that run come first"
    first, dead = ranks[0], next(rank for rank in ranks if rank["code"] == 1)
    assert (dead["pid"], "step" in first) == (None, mode == "in-place")
    for rank in ranks:
        assert bench.service.log(job, rank=rank["name"]).rank == rank["name"]
    if mode != "in-place":
        assert bench.service.log(job, rank=dead["name"]).text == "boom\n" * 3
    with pytest.raises(NotFound, match=r"no rank 9\.9\.9") as refused:
        bench.service.log(job, rank="9.9.9")
    assert first["name"] in refused.value.fix
    bench.service.cancel(job, ADA)
    bench.until(lambda: not bench.engine.running())
    bench.turn(5)
    assert {rank["state"] for rank in bench.service.job(job).ranks} == {"ended"}
