"""Let events and audit be searched by user, node, kind and time."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add columns to the table ``events``, filled from its fields, and indexes to ``events`` and ``audit``."""
    op.add_column("events", sa.Column("node", sa.Text()))
    op.add_column("events", sa.Column("user", sa.Text()))
    _fill()
    for column in ("kind", "node", "user"):
        op.create_index(f"events_by_{column}", "events", [column, "number"])
    op.create_index("events_by_time", "events", ["time_s"])
    for column in ("user", "action", "target"):
        op.create_index(f"audit_by_{column}", "audit", [column, "number"])
    op.create_index("audit_by_time", "audit", ["time_s"])
    no_clocks = sa.text("action NOT LIKE 'clock %'")
    op.create_index("audit_without_clocks", "audit", ["number"], sqlite_where=no_clocks, postgresql_where=no_clocks)


def _fill() -> None:
    """Copy the names of nodes and users from the fields of events into their columns.

    The JSON is not read by the database: PostgreSQL refuses some characters that it may contain.
    """
    connection = op.get_bind()
    named = " OR ".join(f"fields LIKE '%\"{name}\":%'" for name in ("node", "user", "by"))
    rows = connection.execute(sa.text(f"SELECT number, fields FROM events WHERE {named}"))
    found = [{"number": number, **_names(json.loads(fields))} for number, fields in rows]
    if found:
        statement = sa.text('UPDATE events SET node = :node, "user" = :user WHERE number = :number')
        connection.execute(statement, found)


def _names(fields: dict[str, Any]) -> dict[str, str | None]:
    names = {"node": fields.get("node"), "user": fields.get("user", fields.get("by"))}
    return {key: name if isinstance(name, str) and name.isprintable() else None for key, name in names.items()}
