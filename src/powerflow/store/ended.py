"""Find jobs that have ended, and what they had and used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import and_, or_, select

from powerflow.api.pages import ALL_JOBS, JobFilter, Page
from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.models import StoredJob
from powerflow.store.schema import charges, jobs
from powerflow.store.statements import checked, selected


class EndedJobs:
    """Jobs that have ended, in one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, since_s: float, until_s: float, only: JobFilter = ALL_JOBS, after: str | None = None, limit: int = 100
    ) -> Page[StoredJob]:
        """Return one page of jobs that ended in a time window, the one that ended last first.

        Args:
            since_s, until_s: The window, in Unix seconds.
            only: Which of them.
            after: Value of ``next`` on the previous page; None for the first page.
            limit: Largest number of jobs on the page.

        Raises:
            NotFound: ``after`` is not the number of a job.
        """
        inside = select(jobs).where(jobs.c.ended_s >= since_s, jobs.c.ended_s <= until_s)
        query = selected(inside, only, sqlite=self._database.is_sqlite)
        query = query.order_by(jobs.c.ended_s.desc(), jobs.c.id.desc()).limit(checked(limit) + 1)
        with self._database.read() as connection:
            if after is not None:
                number = mappers.number(after)
                last_s = select(jobs.c.ended_s).where(jobs.c.id == number).scalar_subquery()
                query = query.where(or_(jobs.c.ended_s < last_s, and_(jobs.c.ended_s == last_s, jobs.c.id < number)))
            rows = connection.execute(query).mappings().all()
        page = [mappers.job_of(row) for row in rows[:limit]]
        return Page(page, page[-1].id if len(rows) > limit else None)

    def hourly(self, job_ids: Sequence[str]) -> Mapping[str, Sequence[tuple[int, float]]]:
        """Return the energy of each job in each hour: pairs of hour (since 1970) and joules, by job id."""
        mine = charges.c.job_id.in_(map(mappers.number, job_ids))
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        with self._database.read() as connection:
            for number, hour, energy_j in connection.execute(
                select(charges.c.job_id, charges.c.hour, charges.c.energy_j).where(mine)
            ):
                found[str(number)].append((hour, energy_j))
        return found
