"""Note what a job had used and done when it was last started, so that the energy of a step is that of this start."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add columns to the table ``jobs``."""
    op.add_column("jobs", sa.Column("start_steps", sa.Double()))
    op.add_column("jobs", sa.Column("start_energy_j", sa.Double()))
