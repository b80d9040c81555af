"""Jobs that wait for others, tasks of arrays, and time limits, in the loop of a controller."""

from __future__ import annotations

from typing import Any

import pytest

from powerflow.api.job_change import JobChange
from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import RecordFilter
from powerflow.api.records import Caller, Forbidden, JobState, Refused, Role
from tests.live.controller_bench import ADA, Bench

Q, R, DONE, FAILED, GONE = (
    JobState.QUEUED,
    JobState.RUNNING,
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
)


def reason(bench: Bench, job_id: str) -> str:
    return bench.service.job(job_id).record.reason


def change(**keys: Any) -> JobChange:
    return JobChange.model_validate(keys)


def array(bench: Bench, text: str, **keys: Any) -> list[str]:
    first = bench.submit(array=text, **keys)
    return bench.store.array(first)


def test_a_job_waits_for_another_to_complete_and_says_so(bench: Bench) -> None:
    first = bench.submit()
    bench.steps_total = 20
    then = bench.submit(dependency=f"afterok:{first}")
    bench.until_trains(first)
    assert (bench.job(then).state, reason(bench, then)) == (Q, f"waits for job {first} to complete")
    bench.restart()
    bench.turn(2)
    assert (bench.job(then).state, reason(bench, then)) == (Q, f"waits for job {first} to complete")
    bench.until_state(first, DONE)
    bench.until_state(then, DONE)
    assert bench.job(then).started_s >= bench.job(first).ended_s  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "end", "may_start"),
    [
        ("after", None, True),
        ("afterany", None, False),
        ("afterany", GONE, True),
        ("afterok", GONE, False),
        ("afternotok", GONE, True),
        ("afternotok", DONE, False),
    ],
)
def test_each_condition_by_hand(bench: Bench, kind: str, end: JobState | None, may_start: bool) -> None:
    bench.steps_total = 20 if end is DONE else 100_000
    first = bench.submit(gpus=1)
    bench.until_trains(first)
    if end is GONE:
        bench.service.cancel(first, ADA)
        bench.turn(5)
    elif end is DONE:
        bench.until_state(first, DONE)
    bench.steps_total = 100_000
    then = bench.submit(gpus=1, dependency=f"{kind}:{first}")
    bench.turn(20)
    state = bench.job(then).state
    assert (state is R) is may_start
    if end is not None and not may_start:
        assert state is GONE
        assert f"can never start: it waits for job {first} to" in bench.job(then).exit


def test_what_waits_for_a_cancelled_job_is_cancelled_in_turn(bench: Bench) -> None:
    bench.steps_total = 100_000
    first = bench.submit()
    second = bench.submit(dependency=f"afterok:{first}")
    third = bench.submit(dependency=f"afterany:{first},afterok:{second}")
    bench.until_trains(first)
    bench.service.cancel(first, ADA)
    bench.turn(10)
    assert [bench.job(job).state for job in (second, third)] == [GONE, GONE]
    assert bench.job(third).exit.endswith(f"it waits for job {second} to complete, but job {second} was cancelled")


def test_an_unknown_job_to_wait_for_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match="dependency: there is no job 77"):
        bench.submit(dependency="after:77")


def test_as_many_tasks_are_active_as_the_array_says_also_after_a_restart(bench: Bench) -> None:
    bench.steps_total = 30
    tasks = array(bench, "0-4%2", gpus=1)
    after = bench.submit(gpus=1, dependency=f"afterok:{tasks[0]}")
    most = 0
    for turn in range(600):
        bench.turn()
        if turn == 10:
            bench.restart()
        known = [job for job in tasks if job in bench.controller.jobs and bench.controller.jobs[job].known]
        most = max(most, len(known))
        assert len(known) <= 2
        if not bench.job(tasks[-1]).state.ended:
            assert bench.job(after).state is Q, "the number of an array stands for all its tasks"
        if all(bench.job(job).state is DONE for job in tasks):
            break
    else:
        raise AssertionError([bench.job(job) for job in tasks])
    assert most == 2
    bench.until_state(after, DONE)


def test_a_job_ends_at_its_time_limit_which_counts_only_while_it_runs(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=2, time_limit=20.0)
    bench.until_trains(job)
    bench.service.hold(job, ADA)
    bench.turn(200)
    ran_s = bench.job(job).run_s
    assert 0 < ran_s < 20.0
    bench.service.release(job, ADA)
    bench.restart()
    bench.until_state(job, FAILED)
    assert bench.job(job).exit == "reached its time limit of 20 s"
    assert bench.job(job).run_s == pytest.approx(20.0, abs=2.0)
    bench.turn(20)
    assert not bench.engine.running()


def test_an_array_counts_with_all_its_tasks_against_the_limit_of_a_user(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("powerflow.live.job_checks.MOST_ACTIVE", 3)
    with pytest.raises(Refused, match="4 more would be over 3"):
        bench.service.submit(JobSpec(run="x", array="1-4"), ADA)


def test_what_will_not_work_as_hoped_is_said_at_once(bench: Bench) -> None:
    def notes(**keys: Any) -> tuple[str, ...]:
        return bench.service.submit(JobSpec.model_validate({"run": "python t.py", **keys}), ADA)[0].notes

    assert notes() == ()
    many, batch, progress = notes(gpus="1..64", rescale="restart")
    assert "up to 64, but the cluster has" in many
    assert batch.startswith("batch.global is missing")
    assert progress.startswith("progress is missing")
    assert notes(gpus="1..2", rescale="in-place", batch={"global": 64}) == ()


def test_a_waiting_job_is_changed_for_the_scheduler_too_and_over_a_restart(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=1, batch={"global": 64})
    bench.service.hold(job, ADA)
    bench.turn(2)
    bench.service.update(job, change(gpus=4, priority="high", time_limit="50s"), ADA)
    bench.restart()
    bench.service.release(job, ADA)
    bench.until_trains(job)
    assert bench.controller.jobs[job].gpus == 4
    assert bench.service.job(job).record.priority == "high"
    kinds = [event.kind for event in bench.store.events(only=RecordFilter(job_id=job)).items]
    assert "updated" in kinds
    (entry,) = [entry for entry in bench.store.audit().items if entry.action == "job updated"]
    assert entry.text.endswith("changed by ada: gpus 4, priority high, time limit 50 s")


def test_of_a_running_job_only_the_time_limit_changes_and_no_rank_notices(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=2)
    bench.until_trains(job)
    before = bench.engine.running()
    with pytest.raises(Refused, match=f"job {job} is running and cannot be changed in this way; hold it first"):
        bench.service.update(job, change(gpus=1), ADA)
    bench.service.update(job, change(time_limit="30s"), ADA)
    bench.turn(5)
    assert bench.engine.running() == before
    bench.until_state(job, FAILED)
    assert bench.job(job).exit == "reached its time limit of 30 s"


def test_a_time_limit_that_is_over_already_is_refused(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=2)
    bench.until_trains(job)
    bench.turn(20)
    with pytest.raises(Refused, match=rf"job {job} has already run .* and would end at once; give a longer time limit"):
        bench.service.update(job, change(time_limit="1s"), ADA)
    assert bench.job(job).state is JobState.RUNNING


def test_a_job_that_ran_waits_for_no_other_and_none_waits_for_itself(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    ran, one, two, three = (bench.submit(gpus=1) for _ in range(4))
    for each in (one, two, three):
        bench.service.hold(each, ADA)
    bench.until_trains(ran)
    bench.service.hold(ran, ADA)
    bench.until(lambda: not bench.engine.running())
    with pytest.raises(Refused, match=f"job {ran} has run before, so it waits for no other job"):
        bench.service.update(ran, change(dependency=f"afterok:{one}"), ADA)
    with pytest.raises(Refused, match=f"it would wait for itself: job {one}, which waits for job {one}"):
        bench.service.update(one, change(dependency=f"afterok:{one}"), ADA)
    bench.service.update(two, change(dependency=f"afterok:{one}"), ADA)
    bench.service.update(three, change(dependency=f"after:{two}"), ADA)
    circle = f"job {one}, which waits for job {three}, which waits for job {two}, which waits for job {one}"
    with pytest.raises(Refused, match=f"it would wait for itself: {circle}; leave one of them out"):
        bench.service.update(one, change(dependency=f"afterany:{three}"), ADA)
    bench.service.update(three, change(dependency="after:1"), ADA)
    bench.service.update(one, change(dependency=f"afterany:{three}"), ADA)


def test_only_the_owner_changes_a_job(bench: Bench) -> None:
    job = bench.submit()
    with pytest.raises(Forbidden, match="belongs to ada"):
        bench.service.update(job, JobChange(priority="high"), Caller("eve", Role.USER))


def test_an_array_has_failed_when_one_of_its_tasks_has(bench: Bench) -> None:
    bench.steps_total = 10_000
    tasks = array(bench, "0-1", gpus=1)
    bench.until_trains(tasks[0])
    then, never = (bench.submit(gpus=1, dependency=f"{kind}:{tasks[0]}") for kind in ("afternotok", "afterok"))
    bench.service.cancel(tasks[0], ADA)
    bench.turn(10)
    assert reason(bench, then) == f"waits for job {tasks[1]} to end"
    bench.service.cancel(tasks[1], ADA)
    bench.until_trains(then)
    assert bench.job(never).state is GONE


def test_the_run_time_of_a_job_without_steps_survives_a_restart(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=1, rescale="none", run="sleep 1")
    bench.until_state(job, R)
    bench.turn(100)
    before_s = bench.job(job).run_s
    assert before_s > 5.0
    bench.restart()
    bench.turn(4)
    assert bench.controller.jobs[job].run_s >= before_s
