"""Keep the environment variables of the shells from which jobs were submitted, until these jobs have ended.

They may hold secrets, so they are not part of a job's record. Many jobs have the same ones, which are kept once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from sqlalchemy import Connection, delete, exists, insert, select, update

from powerflow.store.database import Database
from powerflow.store.mappers import number, to_json
from powerflow.store.schema import environments, jobs


class Environments:
    """Environment variables of active jobs, in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, job_id: str) -> Mapping[str, str]:
        """Return the variables with which a job was submitted; none if it has ended."""
        query = (
            select(environments.c.variables)
            .join(jobs, jobs.c.environment == environments.c.digest)
            .where(jobs.c.id == number(job_id))
        )
        with self._database.read() as connection:
            text = connection.scalar(query)
        return {} if text is None else {str(name): str(value) for name, value in json.loads(text).items()}


def keep(connection: Connection, variables: Mapping[str, str]) -> str | None:
    """Store variables, and return their digest for the column ``jobs.environment``; None if there are no variables."""
    if not variables:
        return None
    text = to_json(dict(sorted(variables.items())))
    digest = hashlib.sha256(text.encode()).hexdigest()
    if connection.scalar(select(environments.c.digest).where(environments.c.digest == digest)) is None:
        connection.execute(insert(environments).values(digest=digest, variables=text))
    return digest


def forget(connection: Connection, job_id: str) -> None:
    """Delete the variables of a job that has ended, unless another job has the same."""
    mine = jobs.c.id == number(job_id)
    digest = connection.scalar(select(jobs.c.environment).where(mine))
    if digest is None:
        return
    connection.execute(update(jobs).where(mine).values(environment=None))
    if not connection.scalar(select(exists().where(jobs.c.environment == digest))):
        connection.execute(delete(environments).where(environments.c.digest == digest))
