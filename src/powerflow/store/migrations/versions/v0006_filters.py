"""Let events and audit be searched by user, node, kind and time."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add columns to the table ``events``, filled from its fields, and indexes to ``events`` and ``audit``."""
    op.add_column("events", sa.Column("node", sa.Text()))
    op.add_column("events", sa.Column("user", sa.Text()))
    node, user, by = (_field(name) for name in ("node", "user", "by"))
    op.execute(f"UPDATE events SET node = {node}, \"user\" = coalesce({user}, {by}) WHERE fields <> '{{}}'")
    for column in ("kind", "node", "user"):
        op.create_index(f"events_by_{column}", "events", [column, "number"])
    op.create_index("events_by_time", "events", ["time_s"])
    for column in ("user", "action", "target"):
        op.create_index(f"audit_by_{column}", "audit", [column, "number"])
    op.create_index("audit_by_time", "audit", ["time_s"])
    no_clocks = sa.text("action NOT LIKE 'clock %'")
    op.create_index("audit_without_clocks", "audit", ["number"], sqlite_where=no_clocks, postgresql_where=no_clocks)


def _field(name: str) -> str:
    """Return the SQL expression of a field of an event."""
    if op.get_bind().dialect.name == "sqlite":
        return f"json_extract(fields, '$.{name}')"
    return f"fields::json ->> '{name}'"
