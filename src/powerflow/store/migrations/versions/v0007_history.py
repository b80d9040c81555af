"""Let jobs be listed by the time at which they ended."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add an index to the table ``jobs``."""
    op.create_index("jobs_by_end", "jobs", ["ended_s", "id"])
