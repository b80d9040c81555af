"""Store the log of decisions: which GPUs and clock each job got (or would have got), and what was predicted for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, insert, select

from powerflow.api.decisions import DecisionRecord
from powerflow.api.pages import NumberedPage
from powerflow.api.records import JobState
from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.models import DecisionOutcome
from powerflow.store.schema import decisions, jobs
from powerflow.store.statements import feed

#: Jobs that one query names; a database takes only so many.
_AT_ONCE = 1000


class Decisions:
    """Log of the scheduler's decisions, in one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Sequence[DecisionRecord]) -> None:
        """Add decisions to the log. The database numbers them."""
        if rows:
            with self._database.write_claimed() as connection:
                connection.execute(insert(decisions), [mappers.decision_row(row) for row in rows])

    def of_job(self, job_id: str, after: int = 0, limit: int = 100) -> NumberedPage[DecisionRecord]:
        """Return at most ``limit`` decisions on a job, oldest first, beginning after decision number ``after``."""
        mine = (decisions.c.job_id == mappers.number(job_id)) & (decisions.c.number > after)
        with self._database.read() as connection:
            query = select(decisions).where(mine).order_by(decisions.c.number)
            return feed(connection, query, after, limit, mappers.decision_of)

    def last_gpus(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the number of GPUs in the last placement of each job, by job id.

        Jobs that have had no GPU are left out, and those that ended so long ago that their decisions were deleted.
        """
        found: dict[str, int] = {}
        with self._database.read() as connection:
            for first in range(0, len(job_ids), _AT_ONCE):
                numbers = [mappers.number(job_id) for job_id in job_ids[first : first + _AT_ONCE]]
                had = decisions.c.job_id.in_(numbers) & ~decisions.c.would & (decisions.c.gpus > 0)
                last = select(func.max(decisions.c.number)).where(had).group_by(decisions.c.job_id)
                query = select(decisions.c.job_id, decisions.c.gpus).where(decisions.c.number.in_(last))
                found |= {str(number): gpus for number, gpus in connection.execute(query)}
        return found

    def forget(self, ended_before_s: float) -> int:
        """Delete the decisions on jobs that ended before a time (Unix seconds).

        Returns:
            The number of deleted decisions.
        """
        old = select(jobs.c.id).where(jobs.c.ended_s < ended_before_s)
        with self._database.write_claimed() as connection:
            return int(connection.execute(delete(decisions).where(decisions.c.job_id.in_(old))).rowcount)

    def outcomes(
        self,
        since_s: float,
        projects: Sequence[str] | None = None,
        *,
        until_s: float = math.inf,
        user: str | None = None,
    ) -> list[DecisionOutcome]:
        """Return the jobs completed in a window, oldest first, each with the first prediction of its completion time.

        Args:
            since_s: Start of the window, in Unix seconds.
            projects: Only jobs of these projects; None for jobs of all projects.
            until_s: End of the window, in Unix seconds; a job that completed at this very time is not in it.
            user: Only jobs of this user; None for jobs of all users.
        """
        ended = (jobs.c.state == JobState.COMPLETED.value) & (jobs.c.ended_s >= since_s)
        if projects is not None:
            ended &= jobs.c.project.in_(projects)
        if user is not None:
            ended &= jobs.c.user == user
        if until_s < math.inf:
            ended &= jobs.c.ended_s < until_s
        predicts = decisions.c.jct_s.is_not(None) & (decisions.c.gpus > 0)
        first = select(func.min(decisions.c.number).label("number")).join(jobs, jobs.c.id == decisions.c.job_id)
        numbers = first.where(ended, predicts).group_by(decisions.c.job_id, decisions.c.would).subquery()
        query = select(decisions).join(numbers, decisions.c.number == numbers.c.number)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings()
            predicted = {(row["job_id"], bool(row["would"])): mappers.decision_of(row) for row in rows}
            found = connection.execute(select(jobs).where(ended).order_by(jobs.c.ended_s)).mappings().all()
        return [
            DecisionOutcome(
                str(row["id"]),
                row["project"],
                row["ended_s"] - row["submitted_s"],
                row["energy_j"],
                predicted.get((row["id"], False)),
                predicted.get((row["id"], True)),
            )
            for row in found
        ]
