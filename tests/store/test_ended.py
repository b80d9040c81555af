"""Jobs that have ended, as the store finds them."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, Executable, Select, event

from powerflow.api.decisions import DecisionRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import ALL_JOBS, JobFilter
from powerflow.api.records import JobState, NotFound
from powerflow.energy.signal import Signal, constant
from powerflow.live.ended import ended_jobs
from powerflow.store.models import Charge, Intent
from powerflow.store.store import Store

HOUR_S = 3600.0


@pytest.fixture
def past(store: Store) -> Store:
    """Five jobs of two users that have ended at 100, 200, 200, 300 and 400 s, and one that has not."""
    for number in range(1, 7):
        user = "ada" if number % 2 else "bob"
        store.submit(JobSpec(run="true", name=f"n{number}", project="vision" if number < 4 else ""), user, 10.0)
    for number, ended_s in enumerate((100.0, 200.0, 200.0, 300.0, 400.0), 1):
        state = JobState.FAILED if number == 4 else JobState.COMPLETED
        store.move(str(number), JobState.RUNNING, 20.0)
        store.move(str(number), state, ended_s, exit="how it ended")
    return store


def ids(store: Store, since_s: float = 0.0, until_s: float = 1e9, only: JobFilter = ALL_JOBS) -> list[str]:
    return [job.id for job in store.ended.page(since_s, until_s, only).items]


def test_those_that_ended_last_are_first_and_all_pages_together_are_all(past: Store) -> None:
    assert ids(past) == ["5", "4", "3", "2", "1"]
    found: list[str] = []
    after: str | None = None
    for _ in range(3):
        page = past.ended.page(0.0, 1e9, after=after, limit=2)
        found += [job.id for job in page.items]
        after = page.next
    assert (found, after) == (["5", "4", "3", "2", "1"], None)
    with pytest.raises(NotFound):
        past.ended.page(0.0, 1e9, after="none")


def test_filters(past: Store) -> None:
    assert ids(past, 200.0, 300.0) == ["4", "3", "2"]
    assert ids(past, only=JobFilter(states=[JobState.FAILED])) == ["4"]
    assert ids(past, only=JobFilter(user="bob")) == ["4", "2"]
    assert ids(past, only=JobFilter(project="vision", user="ada")) == ["3", "1"]
    assert ids(past, only=JobFilter(states=[JobState.QUEUED])) == []


def test_a_window_is_read_by_an_index(past: Store) -> None:
    """Otherwise each page of the history of a large cluster would read and sort all jobs that ever were."""
    if not past._database.is_sqlite:
        pytest.skip("the planner of PostgreSQL prefers to read all of a small table")
    explained: list[str] = []

    def explain(connection: Connection, statement: Executable, *_: object) -> None:
        if isinstance(statement, Select):
            query = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
            explained.append(str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()))

    with past._database.read() as connection:
        event.listen(connection.engine, "before_execute", explain)
    past.ended.page(150.0, 1e9, after="4", limit=2)
    (plan,) = explained
    assert "jobs_by_end" in plan
    assert "TEMP B-TREE" not in plan, "the rows must not be sorted"


def decided(job_id: str, gpus: int, *, would: bool = False) -> DecisionRecord:
    return DecisionRecord(0, 50.0, job_id, would, "started", "started", gpus, 1410.0)


def test_the_gpus_are_those_of_the_last_placement(past: Store) -> None:
    past.decisions.add(
        [decided("1", 2), decided("1", 8), decided("1", 0), decided("2", 1), decided("2", 4, would=True)]
    )
    assert past.decisions.last_gpus(["1", "2", "3"]) == {"1": 8, "2": 1}


def test_what_jobs_used_and_what_that_cost(past: Store) -> None:
    """At 0.20 EUR per kWh; job 2 never had a joule although it ran, and job 6 was cancelled before it ran."""
    past.charges.add([Charge(0.0, 10.0, "gpu0", "1", 3.6e6, 10.0), Charge(HOUR_S, HOUR_S + 9, "gpu0", "1", 1.8e6, 9.0)])
    past.intents.add([Intent("6", 1, "A100", (), 0.0)], 30.0)
    past.move("6", JobState.CANCELLED, 500.0)
    past.decisions.add([decided("1", 4)])
    jobs = past.ended.page(0.0, 1e9).items

    def told(tariff: Signal | None) -> dict[str, tuple[object, ...]]:
        found = ended_jobs(jobs, past, tariff, emulated=False)
        return {job.id: (job.gpus, job.gpu_s, job.energy_j, job.cost, job.currency) for job in found}

    priced = told(constant("tariff", 0.2, "EUR"))
    assert priced["1"] == (4, 19.0, 5.4e6, pytest.approx(0.3), "EUR")
    assert priced["2"] == (None, 0.0, None, None, "EUR")
    assert priced["6"] == (0, 0.0, 0.0, 0.0, "EUR")
    assert told(None)["1"] == (4, 19.0, 5.4e6, None, "")
    (first,) = [job for job in ended_jobs(jobs, past, None, emulated=True) if job.id == "4"]
    assert (first.name, first.user, first.state, first.exit) == ("n4", "bob", JobState.FAILED, "how it ended")
    assert (first.submitted_s, first.started_s, first.ended_s, first.emulated) == (10.0, 20.0, 300.0, True)


def test_accounts_of_jobs_have_names_users_and_states(past: Store) -> None:
    past.charges.add([Charge(0.0, 10.0, "gpu0", "4", 5.0, 10.0), Charge(0.0, 10.0, "gpu1", None, 7.0, 10.0)])
    found = past.charges.accounts(0.0, HOUR_S, "job")
    assert [(at.name, at.job_name, at.user, at.state) for at in found] == [
        ("4", "n4", "bob", JobState.FAILED),
        ("idle", None, None, None),
        ("total", None, None, None),
    ]
    assert past.charges.accounts(0.0, HOUR_S, "user")[0].job_name is None
