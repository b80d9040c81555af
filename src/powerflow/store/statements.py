"""Define database statements that several modules of the store use. Each runs in its caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Update,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from powerflow.api.acts import said
from powerflow.api.decisions import DecisionRecord
from powerflow.api.governance import AuditRecord
from powerflow.api.pages import JobFilter, NumberedPage
from powerflow.api.records import EventRecord, JobState, NotFound
from powerflow.errors import InputError
from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.models import StoredJob
from powerflow.store.schema import audit, events, jobs, settings

#: Selects jobs that have a final state, and of which processes may still run.
IS_COMPLETING = and_(jobs.c.ended_s.is_(None), jobs.c.state.not_in(mappers.ACTIVE))
#: User of entries of the audit about what PowerFlow itself has done.
OWN = "powerflow"

Numbered = TypeVar("Numbered", AuditRecord, DecisionRecord, EventRecord)


def states_of(connection: Connection, job_ids: Iterable[str]) -> dict[int, JobState]:
    """Return the states of some jobs, as a dictionary by job number.

    Raises:
        NotFound: One of the jobs does not exist.
    """
    numbers = {mappers.number(job_id) for job_id in job_ids}
    found = connection.execute(select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(numbers)))
    states = {number: JobState(state) for number, state in found}
    if missing := numbers - states.keys():
        raise NotFound(f"no job {min(missing)}")
    return states


def add_event(
    connection: Connection, kind: str, text: str, now_s: float, job_id: str | None, fields: Mapping[str, Any]
) -> int:
    """Add an event to the table ``events``, and return the event's number."""
    row = mappers.event_row(kind, text, now_s, job_id, fields)
    return int(connection.execute(insert(events).values(row).returning(events.c.number)).scalar_one())


def add_audit(connection: Connection, rows: Sequence[AuditRecord]) -> None:
    """Add entries to the table ``audit``. The database numbers them."""
    if rows:
        connection.execute(insert(audit), [mappers.audit_row(row) for row in rows])


def add_acts(connection: Connection, rows: Sequence[AuditRecord]) -> None:
    """Add what users have done to the audit, and to the events. What PowerFlow does has events of its own."""
    add_audit(connection, rows)
    for row in rows:
        if row.user != OWN:
            about = {"node": row.target} if row.action.startswith("node ") else {"target": row.target}
            text = said(row.action, row.target, row.user, row.fields)
            job_id = row.target.removeprefix("job ") if row.action.startswith("job ") else None
            kind = row.action.removeprefix("job ")
            add_event(connection, kind, text, row.time_s, job_id, {**about, "by": row.user})


def put_setting(database: Database, connection: Connection, key: str, value: Any) -> None:
    """Store a setting: replace the value of a key, or add the key."""
    statement = database.upsert(settings, ("key",), ("value",))
    connection.execute(statement, {"key": key, "value": mappers.to_json(value)})


def feed(
    connection: Connection,
    query: Select[Any],
    after: int,
    limit: int,
    record_of: Callable[[RowMapping], Numbered],
    latest: ColumnElement[int] | None = None,
) -> NumberedPage[Numbered]:
    """Return the first ``limit`` rows of a query as a page of records, oldest first.

    The page's ``after`` is the number of its last record; for an empty page it is the argument ``after``.

    Args:
        connection, query, after, limit: The query, sorted by number, and what it was asked for.
        record_of: Makes a record of a row.
        latest: The column with the number, to return the last ``limit`` rows instead of the first.
    """
    if latest is not None:
        query = query.order_by(None).order_by(latest.desc())
    rows = connection.execute(query.limit(checked(limit))).mappings()
    items = [record_of(row) for row in rows][:: 1 if latest is None else -1]
    return NumberedPage(items, items[-1].number if items else after)


def checked(limit: int) -> int:
    """Return ``limit`` (the largest number of items on a page) after checking that it is at least 1.

    Raises:
        InputError: ``limit`` is less than 1.
    """
    if limit < 1:
        raise InputError(f"limit is {limit}", fix="give at least 1")
    return limit


@cache  # to build it takes longer than to run it, and the controller runs it every second
def changes_of_jobs() -> Update:
    """Return the statement that stores `mappers.changes` of jobs; a value of None leaves the column as it is."""
    values = {
        name: func.coalesce(bindparam(f"new_{name}", type_=jobs.c[name].type), jobs.c[name]) for name in mappers.CHANGES
    }
    return update(jobs).where(jobs.c.id == bindparam("number")).values(values)


def selected(query: Select[Any], only: JobFilter, *, sqlite: bool) -> Select[Any]:
    """Return a query on the table ``jobs`` for the jobs that a filter selects.

    Args:
        query, only: The query and the filter.
        sqlite: True if the database is SQLite, False if it is PostgreSQL.
    """
    states = [state.value for state in only.states]
    if states and only.completing and set(states) == set(mappers.ACTIVE):
        query = query.where(jobs.c.ended_s.is_(None))
    elif states and only.completing:
        query = query.where(or_(jobs.c.state.in_(states), IS_COMPLETING))
    elif states:
        query = query.where(jobs.c.state.in_(states))
    if only.user is not None:
        query = query.where(jobs.c.user == only.user)
    if only.project is not None:
        query = query.where(jobs.c.project == only.project)
    if only.name is not None:
        position = func.instr if sqlite else func.strpos
        query = query.where(position(jobs.c.spec, mappers.named(only.name)) > 0)
    return query


def page_mark(after: str) -> int:
    """Return the job number that a page begins before.

    Raises:
        InputError: The text is not the ``next`` of a page.
    """
    try:
        return mappers.number(after)
    except NotFound:
        raise InputError(f"{after!r} is not a page", fix="give the value of next in the previous page") from None


def stored_job(connection: Connection, job_id: str) -> StoredJob:
    """Return the job with an id.

    Raises:
        NotFound: There is no job with this id.
    """
    row = connection.execute(select(jobs).where(jobs.c.id == mappers.number(job_id))).mappings().first()
    if row is None:
        raise NotFound(f"no job {job_id}")
    return mappers.job_of(row)
