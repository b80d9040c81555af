"""Refuse a second audit entry with the same number, because ``INSERT OR REPLACE`` of SQLite calls no trigger."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Refuse an entry whose number is taken."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit "
            "WHEN EXISTS (SELECT 1 FROM audit WHERE number = NEW.number) "
            "BEGIN SELECT RAISE(ABORT, 'the audit can only be added to'); END"
        )
