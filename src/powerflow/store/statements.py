"""Define database statements that several modules of the store use. Each runs in its caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, Select, insert, select

from powerflow.api.governance import AuditRecord
from powerflow.api.pages import NumberedPage
from powerflow.api.records import DecisionRecord, EventRecord, JobState, NotFound
from powerflow.errors import InputError
from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.schema import audit, events, jobs, settings

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
) -> NumberedPage[Numbered]:
    """Return the first ``limit`` rows of a query as a page of records.

    The page's ``after`` is the number of its last record; for an empty page it is the argument ``after``.
    """
    rows = connection.execute(query.limit(checked(limit))).mappings()
    items = [record_of(row) for row in rows]
    return NumberedPage(items, items[-1].number if items else after)


def checked(limit: int) -> int:
    """Return ``limit`` (the largest number of items on a page) after checking that it is at least 1.

    Raises:
        InputError: ``limit`` is less than 1.
    """
    if limit < 1:
        raise InputError(f"limit is {limit}", fix="give at least 1")
    return limit
