"""A job that is cancelled, held or stopped is completing until its last process has ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from powerflow.api.pages import JobFilter, RecordFilter
from powerflow.api.records import JobRecord, JobState
from powerflow.live.gang_events import LATE_S
from tests.gangs.fake_engine import Script
from tests.live.controller_bench import ADA, Bench, names

ACTIVE = [state for state in JobState if not state.ended]
GRACE_S = 4.0


def running(bench: Bench, **keys: Any) -> str:
    """A job on two GPUs whose process ignores SIGTERM, so that it runs on until its grace is over."""
    bench.engine.play = lambda spec: Script(100_000, line="step {turn}\n")
    job = bench.submit(run="sleep 1000", rescale="none", gpus=2, **keys)
    bench.until(lambda: bool(names(bench.engine, job)) and bench.job(job).state is JobState.RUNNING)
    bench.engine.stubborn.update(names(bench.engine, job))
    bench.turn(4)
    return job


def record(bench: Bench, job: str) -> JobRecord:
    return bench.service.job(job).record


def ended(bench: Bench) -> list[str]:
    return [job.id for job in bench.service.history(0.0, 1e12).items]


def kinds(bench: Bench, job: str) -> list[str]:
    return [event.kind for event in bench.store.events(only=RecordFilter(job_id=job)).items]


def test_a_cancelled_job_has_its_gpus_until_its_last_process_has_ended(bench: Bench) -> None:
    job = running(bench)
    cancelled_s, ran_s = bench.controller.clock(), record(bench, job).run_s
    answer = bench.service.cancel(job, ADA)
    assert (answer.state, answer.completing, answer.ended_s) == (JobState.CANCELLED, True, None)
    for _ in range(5):
        bench.turn()
        now, top = record(bench, job), bench.service.top()
        assert (now.state, now.completing, now.gpus, now.gpu_type) == (JobState.CANCELLED, True, 2, "A100")
        assert (now.nodes, now.ended_s) == (("a100-0",), None)
        assert bench.service.job(job).gpus_held == {"a100-0": [0, 1]}
        assert (top.running, top.completing, top.gpus_busy) == (0, 1, 2)
        assert now.power_w
        assert top.jobs_power_w == now.power_w, "a busy GPU is not idle"
        assert [shown.id for shown in top.jobs] == [job]
        assert bench.service.explain(job).sentence.endswith("its processes are ending, and keep their GPUs until then")
        assert not bench.service.logs(job).ended
        assert not bench.service.log(job).ended
        assert ended(bench) == []
    assert [found.id for found in bench.service.jobs(JobFilter(states=ACTIVE, completing=True)).items] == [job]
    assert bench.service.jobs(JobFilter(states=ACTIVE)).items == []
    bench.until(lambda: not record(bench, job).completing)
    (told,) = bench.service.history(0.0, 1e12).items
    assert told.run_s is not None
    assert told.ended_s == pytest.approx(cancelled_s + GRACE_S, abs=2.0)
    assert told.run_s == pytest.approx(ran_s + GRACE_S, abs=2.0)
    assert told.gpu_s == pytest.approx(2 * told.run_s, rel=0.01)
    assert kinds(bench, job)[-2:] == ["cancelled", "ended"]
    assert (bench.service.top().completing, bench.service.top().gpus_busy) == (0, 0)
    assert (record(bench, job).gpus, bench.service.logs(job).ended) == (0, True)


def test_a_held_job_is_completing_and_then_held(bench: Bench) -> None:
    job = running(bench)
    assert bench.service.hold(job, ADA).completing
    bench.turn(3)
    now = record(bench, job)
    assert (now.state, now.completing, now.gpus) == (JobState.HELD, True, 2)
    assert (bench.service.top().held, bench.service.top().completing) == (1, 1)
    assert "its processes are ending" in bench.service.explain(job).sentence
    bench.until(lambda: not record(bench, job).completing)
    assert (record(bench, job).state, record(bench, job).gpus) == (JobState.HELD, 0)
    assert bench.service.explain(job).sentence == "held"


def test_a_job_that_reached_its_time_limit_is_completing(bench: Bench) -> None:
    job = running(bench, time_limit=20.0)
    bench.until_state(job, JobState.FAILED)
    assert record(bench, job).completing
    assert ended(bench) == []
    bench.until(lambda: ended(bench) == [job])
    assert bench.job(job).exit == "reached its time limit of 20 s"
    assert kinds(bench, job)[-2:] == ["failed", "ended"]


def test_the_next_controller_waits_for_the_processes_too(bench: Bench) -> None:
    job = running(bench)
    bench.service.cancel(job, ADA)
    bench.die()
    bench.start()
    bench.turn()
    assert (record(bench, job).completing, record(bench, job).gpus) == (True, 2)
    ran_s = record(bench, job).run_s
    bench.until(lambda: ended(bench) == [job])
    assert record(bench, job).run_s > ran_s + GRACE_S - 2.0


def test_a_job_without_processes_ends_at_once(bench: Bench) -> None:
    waits = bench.submit(run="true", rescale="none", gpus=1, dependency=f"after:{running(bench)}", name="waits")
    answer = bench.service.hold(waits, ADA)
    assert not answer.completing
    answer = bench.service.cancel(waits, ADA)
    assert (answer.completing, answer.ended_s) == (False, bench.controller.clock())
    assert ended(bench) == [waits]
    bench.turn(3)
    assert kinds(bench, waits)[-1] == "cancelled"


def test_what_depends_on_the_end_of_a_job_waits_for_its_processes(bench: Bench) -> None:
    job = running(bench)
    after = bench.submit(run="true", rescale="none", gpus=1, dependency=f"afterany:{job}")
    bench.service.cancel(job, ADA)
    bench.turn(3)
    assert record(bench, after).reason == f"waits for job {job} to end"
    bench.until(lambda: bench.job(after).started_s is not None)
    assert ended(bench) == [job]


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ended_while_no_controller_ran_ended_then(bench: Bench, code: int) -> None:
    job = running(bench, retries=0)
    bench.die()
    for _ in range(4):
        bench.engine.tick()
    (name,) = bench.engine.running()
    bench.engine.end(name, code)
    ended_s = 1e9 + bench.engine.now_s
    bench.engine.statuses[name] = replace(bench.engine.statuses[name], ended_s=ended_s)
    for _ in range(60):  # 30 s
        bench.engine.tick()
    bench.start()
    bench.until(lambda: ended(bench) == [job])
    assert bench.job(job).ended_s == ended_s
    (told,) = [e for e in bench.store.events(only=RecordFilter(job_id=job)).items if e.kind in ("completed", "failed")]
    assert told.time_s > ended_s + 29.0
    assert told.text.endswith("s before it was noted")
    assert "before it was noted" not in bench.job(job).exit


def test_an_end_that_is_seen_at_once_is_told_without_its_time(bench: Bench) -> None:
    job = running(bench)
    bench.engine.end(bench.engine.running()[0], 0)
    bench.until(lambda: ended(bench) == [job])
    assert bench.job(job).ended_s == pytest.approx(bench.controller.clock(), abs=LATE_S)
    assert bench.store.events(only=RecordFilter(job_id=job), latest=True, limit=1).items[0].text == "completed"
