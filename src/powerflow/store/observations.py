"""Measured configurations of jobs, from which costs are learned."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select

from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.models import Seen
from powerflow.store.schema import observations
from powerflow.store.statements import states_of


class Observations:
    """All configurations that were measured."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Sequence[Seen]) -> None:
        """Keep measured configurations.

        Raises:
            NotFound: There is no such job.
        """
        if not rows:
            return
        with self._database.write_claimed() as connection:
            states_of(connection, (row.job_id for row in rows))
            connection.execute(insert(observations), [mappers.seen_row(row) for row in rows])

    def all(self) -> list[Seen]:
        """Return all that was measured, in order of arrival."""
        with self._database.read() as connection:
            rows = connection.execute(select(observations).order_by(observations.c.id)).mappings()
            return [mappers.seen_of(row) for row in rows]
