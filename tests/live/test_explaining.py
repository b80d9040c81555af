"""What people are told of a job and of the cluster by `explain`, `top` and events."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from powerflow.api.records import JobState
from powerflow.live.context import LoopContext
from powerflow.scheduler.plan import Otherwise
from powerflow.scheduler.what_if import Insight
from tests.live.controller_bench import ADA, Bench


def test_explain_says_what_binds_what_would_change_it_and_when_it_ends(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    first = [bench.submit(gpus="4", batch={"global": 64}, work={"iterations": 5000}) for _ in range(2)]
    for job in first:
        bench.until_trains(job)
    waits = bench.submit(gpus="2", batch={"global": 64}, work={"iterations": 5_000_000})
    bench.turn(5)
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
    assert runs.options[0].cost_s > 0
    assert bench.service.decisions(waits).items[0].reason.startswith("waits for GPUs")


def test_explain_and_describe_expect_the_same_end_which_is_not_later_than_the_time_limit(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    limited = bench.submit(gpus="2", batch={"global": 64}, time_limit=3600.0)
    free = bench.submit(gpus="2", batch={"global": 64})
    unknown = bench.submit(gpus="1", rescale="none", run="sleep 1", time_limit=600.0)
    for job in (limited, free):
        bench.until_trains(job)
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


def test_a_batch_that_is_not_the_stated_one_is_told_once(bench: Bench) -> None:
    wrong, right = bench.submit(batch={"global": 512}), bench.submit(batch={"global": 64})
    for job in (wrong, right):
        bench.until_state(job, JobState.COMPLETED)
    told = [event for event in bench.store.events(limit=1000).items if event.kind == "batch misstated"]
    assert [event.job_id for event in told] == [wrong]
    assert told[0].text.startswith("a step has 64 samples, but batch.global is 512")


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
    assert bench.service.explain(job).options, "the rest is said all the same"


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
