"""Run migrations with alembic, in the transaction that `powerflow.store.migrate` has opened."""

from __future__ import annotations

from alembic import context

from powerflow.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.VERSION_TABLE,
)
context.run_migrations()
