"""Add the log of decisions: which GPUs and clock each job got (or would have got), and what was predicted for it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table ``decisions``."""
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("time_s", sa.Double(), nullable=False),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("would", sa.Boolean(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("clock_mhz", sa.Double(), nullable=False),
        *(
            sa.Column(name, sa.Double())
            for name in ("jct_s", "jct_low_s", "jct_high_s", "energy_j", "energy_low_j", "energy_high_j")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("decisions_by_job", "decisions", ["job_id", "number"])
