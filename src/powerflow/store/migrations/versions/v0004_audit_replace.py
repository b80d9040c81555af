"""Refuse an audit entry whose number exists already. Otherwise, SQLite's ``INSERT OR REPLACE`` could change entries."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create a trigger that refuses an audit entry whose number exists already."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit "
            "WHEN EXISTS (SELECT 1 FROM audit WHERE number = NEW.number) "
            "BEGIN SELECT RAISE(ABORT, 'the audit can only be added to'); END"
        )
