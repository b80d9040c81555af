"""Define the tables of the store, the same for SQLite and PostgreSQL. ``migrations/versions`` has their history.

Structured values (a job spec, a placement, fields of an event) are stored as JSON in ASCII. So both databases accept
every character that a log line can contain, such as NUL or half a surrogate pair.
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, Double, ForeignKey, Index, Integer, MetaData, Table, Text, text

from powerflow.api.acts import CLOCK

#: Revision of the tables below; the newest of ``migrations/versions``.
VERSION = "0008"
#: Table that holds the revision of the database.
VERSION_TABLE = "powerflow_version"

metadata = MetaData()

#: Selects entries of the audit that are not about GPU clocks. Literally so, or SQLite would not use the index.
NO_CLOCKS = text(f"action NOT LIKE '{CLOCK} %'")

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("spec", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_since_s", Double, nullable=False),
    Column("submitted_s", Double, nullable=False),
    Column("started_s", Double),
    Column("ended_s", Double),
    Column("steps", Double, nullable=False),
    Column("steps_total", Double),
    Column("step_time_s", Double),
    Column("energy_j", Double, nullable=False),
    Column("gpu_s", Double, nullable=False),
    Column("rescales", Integer, nullable=False),
    Column("attempts", Integer, key="failures", nullable=False),  # the name of an earlier version
    Column("reason", Text, nullable=False),
    Column("exit", Text, nullable=False),
    Column("last_lines", Text, nullable=False),
    Column("cost_class", Text, nullable=False),
    Column("environment", Text),
    Column("array_id", Integer),
    Column("array_task", Integer),
    Column("run_s", Double, nullable=False, server_default="0"),
    Column("start_steps", Double),
    Column("start_energy_j", Double),
    Index("jobs_by_state", "state", "id"),
    Index("jobs_by_user", "user", "id"),
    Index("jobs_by_project", "project", "id"),
    Index("jobs_by_array", "array_id", "id"),
    Index("jobs_by_environment", "environment"),
    Index("jobs_by_end", "ended_s", "id"),
    sqlite_autoincrement=True,
)

#: Environment variables of the shells from which active jobs were submitted, each set once, by its SHA-256.
environments = Table(
    "environments",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("variables", Text, nullable=False),
)

#: Idempotency keys of submissions.
keys = Table(
    "keys",
    metadata,
    Column("user", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
)

#: The latest intent of each job.
gangs = Table(
    "gangs",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("gpu_type", Text, nullable=False),
    Column("placement", Text, nullable=False),
    Column("clock_mhz", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("intended_s", Double, nullable=False),
)

observations = Table(
    "observations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("cost_class", Text, nullable=False),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("time_s", Double, nullable=False),
    Column("steps", Double, nullable=False),
    Column("model", Text, nullable=False),
    Column("gpu_type", Text, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("nodes", Integer, nullable=False),
    Column("local_batch", Integer, nullable=False),
    Column("accumulation", Integer, nullable=False),
    Column("clock_mhz", Double),
    Column("step_time_s", Double, nullable=False),
    Column("power_w", Double),
    sqlite_autoincrement=True,
)

#: Energy by hour (since 1970, UTC) and job; job 0 stands for idle GPUs.
charges = Table(
    "charges",
    metadata,
    Column("job_id", Integer, primary_key=True, autoincrement=False),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("energy_j", Double, nullable=False),
    Column("gpu_s", Double, nullable=False),
    Index("charges_by_hour", "hour"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since_s", Double, nullable=False),
    Column("by", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("time_s", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("job_id", Integer, ForeignKey("jobs.id")),
    Column("text", Text, nullable=False),
    Column("fields", Text, nullable=False),
    Column("node", Text),
    Column("user", Text),
    Index("events_by_job", "job_id", "number"),
    Index("events_by_kind", "kind", "number"),
    Index("events_by_node", "node", "number"),
    Index("events_by_user", "user", "number"),
    Index("events_by_time", "time_s"),
    sqlite_autoincrement=True,
)

#: Who set what, when, from where. Migrations 0002 and 0004 make the database refuse to change, delete or replace a row.
audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("time_s", Double, nullable=False),
    Column("user", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("fields", Text, nullable=False),
    Index("audit_by_user", "user", "number"),
    Index("audit_by_action", "action", "number"),
    Index("audit_by_target", "target", "number"),
    Index("audit_by_time", "time_s"),
    # by far most entries are about clocks: without this index, who leaves them out would wait for all to be read
    Index("audit_without_clocks", "number", sqlite_where=NO_CLOCKS, postgresql_where=NO_CLOCKS),
    sqlite_autoincrement=True,
)

#: Decisions on each job (for unmanaged jobs those that would have been made), and what was expected of the job.
decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("time_s", Double, nullable=False),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("would", Boolean, nullable=False),
    Column("why", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("clock_mhz", Double, nullable=False),
    Column("jct_s", Double),
    Column("jct_low_s", Double),
    Column("jct_high_s", Double),
    Column("energy_j", Double),
    Column("energy_low_j", Double),
    Column("energy_high_j", Double),
    Index("decisions_by_job", "job_id", "number"),
    sqlite_autoincrement=True,
)

settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

#: The one controller that may act on this store; at most one row.
claims = Table(
    "claims",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text, nullable=False),
    Column("until_s", Double, nullable=False),
    CheckConstraint("id = 1", name="one_claim"),
)
