"""Store measured step times and watts of jobs, from which PowerFlow learns what steps cost."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select

from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.models import Seen
from powerflow.store.schema import observations
from powerflow.store.statements import states_of


class Observations:
    """All observations in one store: measured step times and watts, with the GPU count, clock and batch of each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Sequence[Seen]) -> None:
        """Store observations.

        Raises:
            NotFound: An observation names a job that does not exist.
        """
        if not rows:
            return
        with self._database.write_claimed() as connection:
            states_of(connection, (row.job_id for row in rows))
            connection.execute(insert(observations), [mappers.seen_row(row) for row in rows])

    def all(self) -> list[Seen]:
        """Return all observations, in the order in which they were added."""
        with self._database.read() as connection:
            rows = connection.execute(select(observations).order_by(observations.c.id)).mappings()
            return [mappers.seen_of(row) for row in rows]
