"""Add what a submission may bring: the shell's environment, tasks of an array, and the run time for time limits."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table ``environments``, and add columns to the table ``jobs``."""
    op.create_table(
        "environments",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("variables", sa.Text(), nullable=False),
    )
    for column in (
        sa.Column("environment", sa.Text()),
        sa.Column("array_id", sa.Integer()),
        sa.Column("array_task", sa.Integer()),
        sa.Column("run_s", sa.Double(), nullable=False, server_default="0"),
    ):
        op.add_column("jobs", column)
    op.create_index("jobs_by_array", "jobs", ["array_id", "id"])
    op.create_index("jobs_by_environment", "jobs", ["environment"])
