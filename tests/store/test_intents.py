"""Intents, charges and epochs of gangs, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import pytest

from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState
from powerflow.store.models import Charge, Intent
from powerflow.store.store import Store
from tests.store.specs import submit

Q, R, H = JobState.QUEUED, JobState.RUNNING, JobState.HELD


def test_intents_are_fenced_by_epoch(store: Store) -> None:
    (job,) = submit(store)
    here, there = (("n0", (0, 1)), ("n1", (3,))), (("n1", (0,)),)
    store.intents.add([Intent(job, 1, "A100", here, 1410.0, "grows")], 1.0)
    assert store.intents.active() == [Intent(job, 1, "A100", here, 1410.0, "grows")]
    store.intents.add([Intent(job, 1, "A100", here, 1005.0, "slower")], 2.0)
    assert store.intents.active()[0].clock_mhz == 1005.0, "a new clock needs no new epoch"
    for late in (
        Intent(job, 0, "A100", there, 1410.0),
        Intent(job, 1, "A100", there, 1410.0),
        Intent(job, 1, "H100", here, 1410.0),
    ):
        with pytest.raises(ValueError, match="epoch"):
            store.intents.add([late], 3.0)
    store.intents.add([Intent(job, 5, "H100", there, 1755.0)], 4.0)
    assert store.intents.active() == [Intent(job, 5, "H100", there, 1755.0)]


def test_intents_of_one_decision_are_written_together(store: Store) -> None:
    one, two, three = submit(store, 3)
    store.intents.add([Intent(two, 3, "A100", (("n0", (1,)),), 1410.0)], 1.0)
    with pytest.raises(ValueError, match="epoch"):
        store.intents.add([Intent(one, 1, "A100", (("n0", (0,)),), 1410.0), Intent(two, 2, "A100", (), 1410.0)], 2.0)
    assert [intent.job_id for intent in store.intents.active()] == [two]
    store.move(three, JobState.CANCELLED, 3.0)
    assert store.intents.add([Intent(one, 1, "A100", (), 1410.0)], 3.0) == frozenset()
    assert [intent.job_id for intent in store.intents.active()] == [one, two]


def test_the_state_follows_an_intent_at_once(store: Store) -> None:
    runs, held, gone, queued = submit(store, 4)
    store.move(held, JobState.HELD, 1.0)
    store.move(gone, JobState.CANCELLED, 1.0)
    here = (("n0", (0,)),)
    out = store.intents.add([Intent(job, 1, "A100", here, 1410.0, "pays") for job in (runs, held, gone)], 2.0)
    assert out == {held, gone}, "who was held or cancelled meanwhile gets nothing"
    assert [intent.job_id for intent in store.intents.active()] == [runs]
    job = store.job(runs)
    assert (job.state, job.state_since_s, job.started_s, job.reason) == (R, 2.0, 2.0, "pays")
    store.intents.add([Intent(runs, 2, "A100", (), 0.0, "gave way"), Intent(queued, 1, "A100", (), 0.0)], 3.0)
    assert (store.job(runs).state, store.job(runs).started_s, store.job(queued).state) == (Q, 2.0, Q)
    store.intents.add([Intent(held, 1, "A100", (), 0.0), Intent(gone, 1, "A100", (), 0.0)], 4.0)
    assert (store.job(held).state, store.job(gone).state) == (JobState.HELD, JobState.CANCELLED)
    told = [(event.kind, event.text) for event in store.events(only=RecordFilter(job_id=runs)).items]
    assert told == [("submitted", "submitted by ada: 1 GPU"), ("running", "pays"), ("queued", "gave way")]


def test_what_jobs_are_charged_is_the_sum_of_their_charges(store: Store) -> None:
    one, two = submit(store, 2)
    store.charges.add([Charge(0.0, 5000.0, "", one, 5.0, 1.0), Charge(0.0, 1.0, "", two, 7.0, 2.0)])
    store.charges.add([Charge(1.0, 2.0, "", one, 2.5, 0.5), Charge(1.0, 2.0, "", None, 9.0, 2.0)])
    assert [(store.job(job).energy_j, store.job(job).gpu_s) for job in (one, two)] == [(7.5, 1.5), (7.0, 2.0)]


def test_a_retired_job_holds_nothing_and_keeps_its_epoch(store: Store) -> None:
    (job,) = submit(store)
    here = (("n0", (0,)),)
    store.intents.add([Intent(job, 4, "A100", here, 1410.0)], 1.0)
    store.intents.retire(job)
    assert store.intents.active() == [Intent(job, 4, "A100", (), 1410.0)]
    with pytest.raises(ValueError, match="epoch"):
        store.intents.add([Intent(job, 4, "A100", here, 1410.0)], 2.0)
    store.intents.add([Intent(job, 5, "A100", here, 1410.0)], 2.0)


def test_an_ended_job_has_no_active_intent(store: Store) -> None:
    (job,) = submit(store)
    intent = Intent(job, 1, "A100", (("n0", (0,)),), 1410.0)
    store.intents.add([intent], 1.0)
    assert store.intents.active() == [intent]
    store.move(job, JobState.CANCELLED, 2.0)
    assert store.intents.active() == []
    store.intents.retire(job)
    assert store.intents.active() == []
