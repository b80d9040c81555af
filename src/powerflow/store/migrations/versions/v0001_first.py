"""Create the first tables.

The definitions are copied here, because those in `schema` will change.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "charges",
        sa.Column("job_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("hour", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("energy_j", sa.Double(), nullable=False),
        sa.Column("gpu_s", sa.Double(), nullable=False),
    )
    op.create_index("charges_by_hour", "charges", ["hour"])
    op.create_table(
        "claims",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.CheckConstraint("id = 1", name="one_claim"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_since_s", sa.Double(), nullable=False),
        sa.Column("submitted_s", sa.Double(), nullable=False),
        sa.Column("started_s", sa.Double()),
        sa.Column("ended_s", sa.Double()),
        sa.Column("steps", sa.Double(), nullable=False),
        sa.Column("steps_total", sa.Double()),
        sa.Column("step_time_s", sa.Double()),
        sa.Column("energy_j", sa.Double(), nullable=False),
        sa.Column("gpu_s", sa.Double(), nullable=False),
        sa.Column("rescales", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("exit", sa.Text(), nullable=False),
        sa.Column("last_lines", sa.Text(), nullable=False),
        sa.Column("cost_class", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_by_project", "jobs", ["project", "id"])
    op.create_index("jobs_by_state", "jobs", ["state", "id"])
    op.create_index("jobs_by_user", "jobs", ["user", "id"])
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since_s", sa.Double(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("time_s", sa.Double(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id")),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_job", "events", ["job_id", "number"])
    op.create_table(
        "gangs",
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("gpu_type", sa.Text(), nullable=False),
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("clock_mhz", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("intended_s", sa.Double(), nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("user", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
    )
    op.create_table(
        "observations",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("cost_class", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("time_s", sa.Double(), nullable=False),
        sa.Column("steps", sa.Double(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("gpu_type", sa.Text(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("nodes", sa.Integer(), nullable=False),
        sa.Column("local_batch", sa.Integer(), nullable=False),
        sa.Column("accumulation", sa.Integer(), nullable=False),
        sa.Column("clock_mhz", sa.Double()),
        sa.Column("step_time_s", sa.Double(), nullable=False),
        sa.Column("power_w", sa.Double()),
        sqlite_autoincrement=True,
    )
