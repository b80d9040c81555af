"""The log of decisions: kept by job, read in order, forgotten in time; and what came of what was said."""

from __future__ import annotations

from typing import Any

from powerflow.api.decisions import DecisionRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState
from powerflow.live.governance.predictions import predictions
from powerflow.live.plan_executor import long_said
from powerflow.store.models import DecisionOutcome
from powerflow.store.store import Store
from tests.store.specs import submit


def told(job_id: str, time_s: float, would: bool = False, **fields: Any) -> DecisionRecord:
    return DecisionRecord(0, time_s, job_id, would, "started", "started on 2 GPUs", 2, 1110.0, **fields)


def test_decisions_are_kept_in_order_by_job_and_forgotten_long_after_its_end(store: Store) -> None:
    first, second = submit(store, 2)
    store.decisions.add([])
    store.decisions.add([told(first, 1.0), told(second, 2.0), told(first, 3.0, would=True, jct_s=5.0)])
    page = store.decisions.of_job(first)
    assert [(row.time_s, row.would, row.jct_s) for row in page.items] == [(1.0, False, None), (3.0, True, 5.0)]
    assert store.decisions.of_job(first, after=page.items[0].number).items == page.items[1:]
    assert store.decisions.of_job(first, limit=1).after == page.items[0].number
    store.move(first, JobState.RUNNING, 10.0)
    store.move(first, JobState.COMPLETED, 20.0)
    assert store.decisions.forget(20.0) == 0
    assert store.decisions.forget(21.0) == 2
    assert len(store.decisions.of_job(second).items) == 1


def test_outcomes_are_the_first_word_on_each_completed_job(store: Store) -> None:
    specs = [JobSpec(run="python train.py", project=project) for project in ("vision", "speech", "vision")]
    done, other, runs = (store.submit(spec, "ada", 0.0)[0].id for spec in specs)
    store.decisions.add(
        [
            told(done, 1.0),
            told(done, 2.0, jct_s=90.0, energy_j=9.0),
            told(done, 2.0, would=True, jct_s=80.0, energy_j=8.0),
            told(done, 3.0, jct_s=70.0, energy_j=7.0),
            told(runs, 3.0, jct_s=70.0, energy_j=7.0),
        ]
    )
    for job in (done, other):
        store.move(job, JobState.RUNNING, 10.0)
        store.move(job, JobState.COMPLETED, 100.0)
    found = {outcome.job_id: outcome for outcome in store.decisions.outcomes(0.0)}
    assert found.keys() == {done, other}
    said, would = found[done].predicted, found[done].would
    assert said is not None
    assert would is not None
    assert (said.jct_s, would.jct_s) == (90.0, 80.0)
    assert (found[other].predicted, found[other].would) == (None, None)
    assert [outcome.job_id for outcome in store.decisions.outcomes(0.0, ["vision"])] == [done]
    assert store.decisions.outcomes(101.0) == []
    assert [outcome.job_id for outcome in store.decisions.outcomes(0.0, until_s=100.1, user="ada")] == [done, other]
    assert store.decisions.outcomes(0.0, until_s=100.0) == []
    assert store.decisions.outcomes(0.0, user="bob") == []


def test_predictions_are_compared_with_what_jobs_took() -> None:
    """Of three jobs, one has no prediction, one no interval, and of one it is known what PowerFlow would have done."""
    within: dict[str, Any] = {"jct_low_s": 80.0, "jct_high_s": 99.0, "energy_low_j": 5.0, "energy_high_j": 9.0}
    said = told("1", 1.0, jct_s=90.0, energy_j=8.0, **within)
    would = told("1", 1.0, would=True, jct_s=60.0, energy_j=6.0)
    plain = told("2", 1.0, jct_s=50.0, energy_j=4.0)
    outcomes = [
        DecisionOutcome("1", "", 95.0, 10.0, said, would),
        DecisionOutcome("2", "", 50.0, 4.0, plain, None),
        DecisionOutcome("3", "", 50.0, 7.0, None, None),
    ]
    found = predictions(outcomes, 0.0, 1.0)
    assert (found.completed, found.predicted, found.predicted_j, found.used_j) == (3, 2, 12.0, 14.0)
    assert (found.judged, found.within_time, found.within_energy) == (1, 1.0, 0.0)
    assert (found.compared, found.asked_j, found.would_j, found.asked_jct_s, found.would_jct_s) == (
        1,
        8.0,
        6.0,
        90.0,
        60.0,
    )


def test_a_decision_that_takes_long_is_said_with_its_time() -> None:
    assert long_said(1.0, compiles=True) == ""
    assert long_said(4.26, compiles=False) == "4.26 s"
    assert long_said(22.8, compiles=True) == "22.8 s, most of it to compile: this happens once"
