"""One controller ends, at any moment, and the next one goes on."""

from __future__ import annotations

import pytest

from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState
from powerflow.engine.protocol import RankSpec
from tests.gangs.fake_engine import Player, Script
from tests.live.controller_bench import ADA, Bench
from tests.live.joules import joules


def test_a_restart_changes_nothing_for_who_runs(bench: Bench) -> None:
    bench.steps_total = 10_000
    jobs = [bench.submit(gpus=2) for _ in range(3)]
    for job in jobs:
        bench.until_trains(job)
    bench.turn(30)
    before = set(bench.engine.running())
    for _ in range(5):
        bench.restart()
        bench.turn(3)
    assert set(bench.engine.running()) == before
    assert not bench.engine.signals


def test_who_ran_before_a_restart_resumes_and_does_not_start(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus=1)
    bench.until_trains(job)
    bench.turn(30)
    bench.service.hold(job, ADA)
    bench.until(lambda: not bench.engine.running())
    bench.restart()
    bench.service.release(job, ADA)
    bench.until(lambda: bool(bench.engine.running()))
    bench.turn(3)
    assert any(row.reason.startswith("resumed on 1 GPU") for row in bench.service.decisions(job).items)


def test_a_clock_that_is_set_back_between_two_controllers_stops_nothing(bench: Bench) -> None:
    bench.steps_total = 100
    job = bench.submit(gpus=1)
    bench.until_trains(job)
    bench.die()
    bench.offset_s -= 3600.0
    bench.start()
    late = bench.submit(gpus=1)
    bench.until_state(late, JobState.COMPLETED)
    bench.until_state(job, JobState.COMPLETED)
    bench.die()
    bench.offset_s += 86_400.0
    bench.start()
    bench.until_state(bench.submit(gpus=1), JobState.COMPLETED)


def test_what_was_learned_is_there_after_a_restart(bench: Bench) -> None:
    done = bench.submit(name="a", gpus="1..2", batch={"global": 64})
    bench.until_state(done, JobState.COMPLETED)
    bench.steps_total = 10_000
    job = bench.submit(name="b", gpus=1, run="python other.py")
    bench.until_trains(job)
    bench.turn(60)
    learning = bench.controller.learning
    before = {name: learning.table(name, "A100") for name in learning._classes}
    kind, spec = bench.controller.jobs[job].kind, bench.job(done).spec
    assert learning._measured[kind.name, "A100"]
    bench.turn(3)
    bench.controller._save(bench.controller.clock(), everything=True)
    lengths = {name: learning.believed_steps(spec, name) for name in before}
    bench.restart()
    learning = bench.controller.learning
    for name, table in before.items():
        after = learning.table(name, "A100")
        assert after.step_time_s == pytest.approx(table.step_time_s, rel=0.02)
        assert after.power_w == pytest.approx(table.power_w, rel=0.02)
        assert learning.believed_steps(spec, name) == pytest.approx(lengths[name], rel=0.02)


def test_what_the_scheduler_expects_of_a_job_s_size_is_there_after_a_restart(bench: Bench) -> None:
    for _ in range(3):
        bench.until_state(bench.submit(gpus=1), JobState.COMPLETED)
    bench.restart()
    job, scheduler = bench.submit(gpus=1), bench.controller.scheduler
    bench.until(lambda: job in scheduler.ledger.slot_of)
    (row,) = scheduler.view(scheduler.pools["A100"], bench.controller.clock()).jobs
    assert row["size_log_sd"] > 0.0
    assert 0.0 < row["expected_gpu_s"] < 600.0  # 3,600 s, had nothing been learnt


def test_the_scheduler_knows_what_old_classes_cost_after_a_restart(bench: Bench) -> None:
    bench.until_state(bench.submit(gpus=1), JobState.COMPLETED)
    bench.restart()
    bench.until_state(bench.submit(gpus=1), JobState.COMPLETED)


def test_every_joule_is_a_job_s_or_idle_over_kills(bench: Bench) -> None:
    bench.steps_total = 20
    bench.turn(3)
    start = joules(bench.store, bench.directory / "device", "machine")
    assert start is not None
    jobs = [bench.submit(gpus="1..4", batch={"global": 64}) for _ in range(3)]
    for _ in range(40):
        if not bench.store.active():
            break
        for gpu in bench.gpus:  # nobody paces these ranks: they draw what the test says
            gpu.draw(200.0, pid=1, birth=1, arrears_j=3.0)
        bench.turn(7)
        bench.restart()
    bench.turn(3)
    end = joules(bench.store, bench.directory / "device", "machine")
    assert end is not None
    counted_j = end[1] - start[1]
    metered_j, jobs_j, idle_j = bench.store.charges.totals()
    assert not bench.store.active()
    assert counted_j > 100.0
    assert end[0] - start[0] == pytest.approx(counted_j, abs=0.01)
    assert jobs_j + idle_j == pytest.approx(metered_j)
    assert sum(bench.job(job).energy_j for job in jobs) == pytest.approx(jobs_j)
    assert jobs_j > 0


def test_ranks_of_jobs_that_the_store_does_not_know_are_ended_and_nobody_is_charged(bench: Bench) -> None:
    bench.steps_total = 10_000
    bench.submit(gpus=2)
    bench.until(lambda: len(bench.engine.running()) == 2)
    bench.close()
    for path in bench.directory.glob("store.db*"):
        path.unlink()
    bench.start()
    bench.until(lambda: not bench.engine.running())
    bench.turn(10)
    assert bench.store.charges.totals()[1] == 0.0


@pytest.mark.parametrize(
    ("first", "said"), [(30, "resumed at step 30; "), (1, "began again at step 1, not from a che")]
)
def test_a_script_resumes_only_if_its_steps_go_on(bench: Bench, first: int, said: str) -> None:
    begin = 1

    def play(spec: RankSpec) -> Player:
        return Script(10_000, line="step {turn}\n", turns=begin - 1)

    bench.engine.play = play
    job = bench.submit(gpus=1, rescale="restart", progress=r"step (?P<step>\d+)")
    bench.until(lambda: job in bench.controller.jobs and bench.controller.jobs[job].steps >= 40)
    before = bench.controller.jobs[job].steps
    bench.service.hold(job, ADA)
    bench.until(lambda: not bench.engine.running())
    begin = first
    bench.service.release(job, ADA)
    bench.until(lambda: bench.controller.jobs[job].steps < before)
    bench.turn(3)
    events = [event.text for event in bench.service.events(only=RecordFilter(job_id=job)).items]
    assert any(text.startswith(said) for text in events), events
    reasons = [row.reason for row in bench.service.decisions(job).items]
    assert any(reason.startswith("started again on 1 GPU") for reason in reasons)
    assert not any(reason.startswith("resumed on") for reason in reasons)
    row = bench.controller.scheduler.slot(job)
    done = bench.controller.scheduler.ledger.rows["done"][row]
    assert first <= done < before
