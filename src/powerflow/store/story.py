"""Read the events and the audit of a store: what happened, and who did what."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, Select, Table, or_, select

from powerflow.api.acts import CLOCK
from powerflow.api.governance import AuditRecord
from powerflow.api.pages import NumberedPage, RecordFilter
from powerflow.api.records import EventRecord
from powerflow.store import mappers
from powerflow.store.schema import NO_CLOCKS, audit, events, jobs
from powerflow.store.statements import feed


def page_of_events(
    connection: Connection, after: int, limit: int, only: RecordFilter, *, latest: bool
) -> NumberedPage[EventRecord]:
    """Return at most ``limit`` events after event number ``after``, oldest first.

    Args:
        connection, after, limit: The store, the number of an event, and the most events.
        only: Which events to return.
        latest: True for the last events, not the first.
    """
    query = _selected(events, events.c.kind, after, only)
    if only.job_id is not None:
        query = query.where(events.c.job_id == mappers.number(only.job_id))
    if only.node is not None:
        query = query.where(events.c.node == only.node)
    if only.user is not None:
        own = events.c.job_id.in_(select(jobs.c.id).where(jobs.c.user == only.user))
        query = query.where(or_(events.c.user == only.user, own))
    return feed(connection, query, after, limit, mappers.event_of, events.c.number if latest else None)


def page_of_audit(
    connection: Connection, after: int, limit: int, only: RecordFilter, *, clocks: bool, latest: bool
) -> NumberedPage[AuditRecord]:
    """Return at most ``limit`` audit entries after entry number ``after``, oldest first.

    Args:
        connection, after, limit: The store, the number of an entry, and the most entries.
        only: Which entries to return.
        clocks: True for entries about GPU clocks, too; they are also returned if ``only`` names such actions.
        latest: True for the last entries, not the first.
    """
    query, target = _selected(audit, audit.c.action, after, only), audit.c.target
    if not clocks and not any(name.partition(" ")[0] == CLOCK for name in only.kinds):
        query = query.where(NO_CLOCKS)
    if only.job_id is not None:
        query = query.where(target == f"job {mappers.number(only.job_id)}")
    if only.node is not None:  # itself, or one of its GPUs
        query = query.where(or_(target == only.node, target.startswith(f"{only.node}/", autoescape=True)))
    if only.user is not None:
        query = query.where(audit.c.user == only.user)
    return feed(connection, query, after, limit, mappers.audit_of, audit.c.number if latest else None)


def _selected(table: Table, kind: Column[str], after: int, only: RecordFilter) -> Select[Any]:
    """Return the rows after a number that a filter selects by kind and time, sorted by number."""
    query = select(table).where(table.c.number > after).order_by(table.c.number)
    if only.kinds:
        begins = (kind.startswith(f"{name} ", autoescape=True) for name in only.kinds)
        query = query.where(or_(kind.in_(only.kinds), *begins))
    if only.since_s is not None:
        query = query.where(table.c.time_s >= only.since_s)
    if only.until_s is not None:
        query = query.where(table.c.time_s <= only.until_s)
    return query
