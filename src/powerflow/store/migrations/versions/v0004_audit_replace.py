"""SQLite's ``INSERT OR REPLACE`` drops a row without a word to triggers on DELETE: an entry's number is given once."""

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
