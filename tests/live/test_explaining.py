"""What people are told of a job and of the cluster by `explain`, `top` and events."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from powerflow.api.records import JobState
from powerflow.live.context import LoopContext
from powerflow.live.explanation import _decided_at
from powerflow.scheduler.plan import Otherwise
from powerflow.scheduler.what_if import Insight
from tests.live.controller_bench import ADA, Bench
from tests.live.kinds import STEPS, script


def test_explain_says_what_binds_what_would_change_it_and_when_it_ends(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    first = [bench.submit(gpus="4", batch={"global": 64}, work={"iterations": 5000}) for _ in range(2)]
    for job in first:
        bench.until_trains(job)
    waits = bench.submit(gpus="2", batch={"global": 64}, work={"iterations": 5_000_000})
    bench.until(lambda: bench.service.explain(waits).end_s is not None)
    said = bench.service.explain(waits)
    assert said.binds in ("GPUs", "priority")
    assert any(at.limit == "GPUs" and at.gpus == 2 for at in said.otherwise)
    assert said.start_s is not None
    assert said.end_s is not None
    assert said.start_s < said.end_s
    runs = bench.service.explain(first[0])
    assert runs.start_s is None
    assert runs.end_s is not None
    assert runs.end_s > bench.controller.clock()
    assert runs.energy_j is not None
    assert runs.now is not None
    assert runs.now.cost_s > 0
    assert bench.service.decisions(waits).items[0].reason.startswith("waits for GPUs")


def test_explain_and_describe_expect_the_same_end_which_is_not_later_than_the_time_limit(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    limited = bench.submit(gpus="2", batch={"global": 64}, time_limit=3600.0)
    free = bench.submit(gpus="2", batch={"global": 64})
    unknown = bench.submit(gpus="1", rescale="none", run="sleep 1", time_limit=600.0)
    for job in (limited, free):
        bench.until(lambda job=job: (bench.service.job(job).record.step_time_s or 0.0) > 0.0)  # type: ignore[misc]
    ends = {}
    for job in (limited, free, unknown):
        record, said = bench.service.job(job).record, bench.service.explain(job)
        assert said.end_s == record.eta_s is not None, "they must not differ"
        ends[job] = record.eta_s - bench.controller.turned_s + record.run_s
        assert said.ends_by_limit is (job != free)
    assert ends[limited] == pytest.approx(3600.0)
    assert ends[unknown] == pytest.approx(600.0)
    assert ends[free] > 36_000.0
    said = bench.service.explain(limited)
    assert said.energy_j is not None
    assert said.now is not None
    left_s = 3600.0 - bench.service.job(limited).record.run_s
    assert said.energy_j - bench.job(limited).energy_j == pytest.approx(said.now.power_w * left_s, rel=0.05)


def test_the_end_is_that_of_the_measured_steps_from_the_first_on(bench: Bench) -> None:
    """A script of unknown kind: until a step is timed its end is unknown, and then not that of a guess."""
    script(bench, lasts=5000)  # 10 steps a second
    job = bench.submit(run="python t.py", rescale="none", gpus="1", progress=STEPS, work={"iterations": 5000})
    seen = set()
    for _ in range(80):
        bench.turn()
        record = bench.service.job(job).record
        if record.step_time_s is None:
            assert record.eta_s is None
            continue
        assert record.eta_s is not None
        left_s = (5000 - record.steps) * record.step_time_s
        assert record.eta_s - bench.controller.turned_s == pytest.approx(left_s, rel=0.25), "clocks are tried, too"
        seen.add(bool(bench.controller.jobs[job].explore_mhz))
    assert True in seen


def test_explain_and_describe_say_the_same_of_a_step_and_list_each_choice_once(bench: Bench) -> None:
    job = bench.submit(gpus="1..2", batch={"global": 64}, work={"iterations": 5000})
    bench.until(lambda: bench.service.job(job).record.energy_per_step_now_j is not None)
    record, said = bench.service.job(job).record, bench.service.explain(job)
    assert said.measured is not None
    assert said.measured.energy_per_step_j == record.energy_per_step_now_j
    assert (said.measured.step_time_s, said.measured.power_w) == (record.step_time_s, record.power_w)
    assert said.measured.clock_mhz == record.clock_mhz
    assert said.now is not None
    listed = [(option.gpus, option.clock_mhz) for option in (said.now, *said.options)]
    assert len(set(listed)) == len(listed) > 1


def test_a_batch_that_is_not_the_stated_one_is_told_once(bench: Bench) -> None:
    wrong, right = bench.submit(batch={"global": 512}), bench.submit(batch={"global": 64})
    for job in (wrong, right):
        bench.until_state(job, JobState.COMPLETED)
    told = [event for event in bench.store.events(limit=1000).items if event.kind == "batch misstated"]
    assert [event.job_id for event in told] == [wrong]
    assert told[0].text.startswith("a step has 64 samples, but batch.global is 512")


@pytest.mark.parametrize(
    ("free_s", "interval_s", "starts_s"),
    [(90.0, 60.0, 100.0), (100.0, 60.0, 100.0), (101.0, 60.0, 160.0), (220.0, 60.0, 220.0), (101.0, 0.0, 101.0)],
)
def test_a_job_starts_at_the_first_decision_at_which_there_is_room(
    free_s: float, interval_s: float, starts_s: float
) -> None:
    """The next decision is at 100 s."""
    assert _decided_at(free_s, 100.0, interval_s) == starts_s


def test_top_says_when_what_fell_free_will_be_used(bench: Bench) -> None:
    bench.turn(3)
    assert bench.service.top().next_decision_s is None, "there is nothing to decide"
    for _ in range(9):
        bench.submit(gpus="1", rescale="none", run="sleep 1")
    bench.turn()
    top = bench.service.top()
    assert (top.running, top.queued) == (8, 1)
    decided_s = bench.controller.clock()
    bench.service.cancel("1", ADA)
    bench.controller.turn()
    due_s = bench.service.top().next_decision_s
    assert due_s is not None
    assert due_s == pytest.approx(decided_s + 1.0), "the bench's interval"
    late = bench.submit(gpus="1", rescale="none", run="sleep 1")
    bench.controller.turn()
    assert bench.service.job(late).record.reason == "waits for the next decision"
    start_s = bench.service.explain(late).start_s
    assert start_s is None or start_s >= due_s


def known(job_id: str) -> Callable[[LoopContext, float], bool]:
    """Whether the scheduler knows a job."""
    return lambda context, now_s: job_id in context.scheduler.ledger.slot_of


def test_explain_waits_for_the_loop_but_not_for_ever(bench: Bench) -> None:
    job = bench.submit(gpus="1", batch={"global": 64})
    bench.until_trains(job)
    stop = threading.Event()
    loop = threading.Thread(target=bench.controller.run, args=(stop,))
    loop.start()
    try:
        assert bench.controller.inquire(known(job), 20.0) is True
        assert bench.controller.inquire(known("99"), 20.0) is False
    finally:
        stop.set()
        bench.controller.ring()
        loop.join()
    bench.controller._running = True  # as if it turned, and hung
    assert bench.controller.inquire(known(job), 0.05) is None


def test_a_question_that_fails_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    job = bench.submit(gpus="1", batch={"global": 64})
    bench.until_trains(job)
    monkeypatch.setattr("powerflow.live.explanation.what_if", fails)
    said = bench.service.explain(job)
    assert (said.binds, said.limits_known) == ("", False)
    bench.turn(2)
    assert bench.service.explain(job).now, "the rest is said all the same"


@pytest.mark.parametrize(
    ("binds", "sentence"),
    [
        ("budget", "waits for budget"),
        ("next decision", "waits for the next decision"),
        ("GPUs", "waits for GPUs: 2 more"),
    ],
)
def test_the_sentence_names_the_limit_that_binds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, binds: str, sentence: str
) -> None:
    bench.steps_total = 1_000_000
    first = [bench.submit(gpus="4", batch={"global": 64}, work={"iterations": 5000}) for _ in range(2)]
    for job in first:
        bench.until_trains(job)
    waits = bench.submit(gpus="2", batch={"global": 64}, work={"iterations": 5_000_000})
    bench.turn(5)
    found = Insight(binds, (Otherwise(binds, "if it were so", 2, 1410.0),), None)
    monkeypatch.setattr("powerflow.live.explanation.what_if", lambda *_: found)
    said = bench.service.explain(waits)
    assert said.sentence.startswith(sentence)
    assert said.limits_known


def test_recent_says_what_the_cluster_drew_and_what_it_was_allowed(bench: Bench) -> None:
    began_s = bench.controller.clock()
    bench.submit(gpus="2", rescale="none", run="sleep 60")
    bench.turn()
    (first,) = bench.service.recent()
    assert first.time_s >= began_s
    assert (first.power_w, first.cap_w) == (bench.service.top().power_w, None)
    assert bench.service.recent(after_s=first.time_s) == []
