"""Events and audit are searched in the database, and tell one story."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from powerflow.api.governance import AuditRecord
from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState
from powerflow.store.store import Store
from tests.store.specs import SPEC


def test_events_are_selected_by_job_user_node_kind_and_time(store: Store) -> None:
    mine, other = store.submit(SPEC, "ada", 1.0)[0].id, store.submit(SPEC, "bob", 2.0)[0].id
    store.append("rank lost", "a", 3.0, mine)
    store.append("rank_lost", "b", 4.0, other)
    store.set_node("n1", "drained", "a fan", 5.0, "ops")
    store.append("gpu out", "c", 6.0, None, node="n1", gpu=0)

    def times(**only: Any) -> list[float]:
        return [event.time_s for event in store.events(only=RecordFilter(**only)).items]

    assert times() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert times(job_id=mine) == [1.0, 3.0]
    assert times(user="ada") == [1.0, 3.0], "what they did, and what their jobs did"
    assert times(user="ops") == [5.0]
    assert times(node="n1") == [5.0, 6.0]
    assert times(kinds=["rank"]) == [3.0], "a first word is a word: rank_lost is another kind"
    assert times(kinds=["gpu out", "node"]) == [5.0, 6.0]
    assert times(since_s=3.0, until_s=4.0) == [3.0, 4.0]
    assert times(kinds=["%"]) == []


def test_the_latest_are_the_last_and_the_newest_comes_last(store: Store) -> None:
    for at_s in range(5):
        store.append("noted", str(at_s), float(at_s))
    page = store.events(limit=2, latest=True)
    assert [event.text for event in page.items] == ["3", "4"]
    assert store.events(page.after, latest=True).items == []
    assert [event.text for event in store.events(1, limit=2).items] == ["1", "2"]


def test_the_audit_is_selected_and_leaves_out_clocks_unless_asked(store: Store) -> None:
    job = store.submit(SPEC, "ada", 1.0, address="192.0.2.1")[0].id
    store.set_node("n1", "drained", "", 2.0, "ops")
    clock = AuditRecord(0, 3.0, "powerflow", "", "clock set", "n1/0", {"clock_mhz": 1110.0})
    store.note([clock, replace(clock, target="n10/0")])
    store.govern("caps", [], [AuditRecord(0, 4.0, "ops", "", "cap set", "cluster", {"watts": 6e4})])

    def actions(*, clocks: bool = True, **only: Any) -> list[str]:
        return [entry.action for entry in store.audit(only=RecordFilter(**only), clocks=clocks).items]

    assert actions(clocks=False) == ["job submitted", "node drained", "cap set"]
    assert actions(job_id=job) == ["job submitted"]
    assert actions(user="ops") == ["node drained", "cap set"]
    assert actions(node="n1") == ["node drained", "clock set"], "itself and its GPUs; n10 is another node"
    assert actions(kinds=["clock"], clocks=False) == actions(kinds=["clock set"], clocks=False) == ["clock set"] * 2
    assert actions(kinds=["clock"]) == ["clock set", "clock set"]
    assert actions(since_s=2.0, until_s=3.0, clocks=False) == ["node drained"]


def test_audit_and_events_tell_one_story(store: Store) -> None:
    job = store.submit(SPEC, "ada", 1.0, address="192.0.2.1")[0].id
    store.set_node("n1", "drained", "a fan", 2.0, "ops")
    asked = AuditRecord(0, 3.0, "ada", "192.0.2.1", "job cancelled", f"job {job}")
    store.move(job, JobState.CANCELLED, 3.0, asked=asked)
    store.govern("caps", [], [AuditRecord(0, 4.0, "ops", "", "cap set", "cluster", {"watts": 6e4})])
    store.govern("stages", {}, [AuditRecord(0, 5.0, "powerflow", "", "mode set", "vision", {"stage": "shadow"})])
    audit, events = store.audit().items, store.events().items
    assert [(entry.time_s, entry.user, entry.text) for entry in audit[:-1]] == [
        (event.time_s, event.user, event.text) for event in events
    ]
    assert [event.kind for event in events] == ["submitted", "node drained", "cancelled", "cap set"]
    assert audit[-1].text == "stage of vision set to shadow by powerflow", "its own acts have their own events"


def test_filters_use_indexes(store: Store) -> None:
    if not store._database.is_sqlite:
        pytest.skip("the planner of PostgreSQL prefers to read all of a small table")
    plans = {}
    with store._database.read() as connection:
        for name, query in {
            "audit_without_clocks": "audit WHERE action NOT LIKE 'clock %'",
            "audit_by_target": "audit WHERE target = 'job 1'",
            "events_by_node": "events WHERE node = 'n1'",
            "events_by_kind": "events WHERE kind = 'node'",
        }.items():
            explain = f"EXPLAIN QUERY PLAN SELECT * FROM {query} AND number > 0 ORDER BY number DESC"
            plans[name] = str(connection.exec_driver_sql(explain).all())
    assert all(name in plan for name, plan in plans.items()), plans
