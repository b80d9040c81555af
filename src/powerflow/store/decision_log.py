"""The log of decisions as the store keeps it: what each job was given or would have been, and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select

from powerflow.api.records import DecisionRecord, JobState, Page
from powerflow.store import mappers
from powerflow.store.models import DecisionOutcome
from powerflow.store.schema import decisions, jobs


def add(connection: Connection, rows: Sequence[DecisionRecord]) -> None:
    """Add to it; numbers are given here."""
    if rows:
        connection.execute(insert(decisions), [mappers.decision_row(row) for row in rows])


def of_job(connection: Connection, job_id: str, after: int, limit: int) -> Page[DecisionRecord]:
    """What was decided for a job after decision number ``after``, oldest first."""
    mine = (decisions.c.job_id == mappers.number(job_id)) & (decisions.c.number > after)
    query = select(decisions).where(mine).order_by(decisions.c.number).limit(limit + 1)
    rows = [mappers.decision_of(row) for row in connection.execute(query).mappings()]
    return Page(rows[:limit], str(rows[limit - 1].number) if len(rows) > limit else None)


def forget(connection: Connection, ended_before_s: float) -> int:
    """Drop the stories of jobs that ended before then; how many decisions went."""
    old = select(jobs.c.id).where(jobs.c.ended_s < ended_before_s)
    return int(connection.execute(delete(decisions).where(decisions.c.job_id.in_(old))).rowcount)


def outcomes(connection: Connection, since_s: float, projects: Sequence[str] | None) -> list[DecisionOutcome]:
    """Jobs completed since then, oldest first, with the first words on each: see `DecisionOutcome`.

    Args:
        connection: To the store's database.
        since_s: Unix seconds.
        projects: Only of these; None: of all.
    """
    ended = (jobs.c.state == JobState.COMPLETED.value) & (jobs.c.ended_s >= since_s)
    if projects is not None:
        ended &= jobs.c.project.in_(projects)
    foretold = decisions.c.jct_s.is_not(None) & (decisions.c.gpus > 0)
    first = select(func.min(decisions.c.number).label("number")).join(jobs, jobs.c.id == decisions.c.job_id)
    numbers = first.where(ended, foretold).group_by(decisions.c.job_id, decisions.c.would).subquery()
    query = select(decisions).join(numbers, decisions.c.number == numbers.c.number)
    rows = connection.execute(query).mappings()
    said = {(row["job_id"], bool(row["would"])): mappers.decision_of(row) for row in rows}
    found = connection.execute(select(jobs).where(ended).order_by(jobs.c.ended_s)).mappings()
    return [
        DecisionOutcome(
            str(row["id"]),
            row["project"],
            row["ended_s"] - row["submitted_s"],
            row["energy_j"],
            said.get((row["id"], False)),
            said.get((row["id"], True)),
        )
        for row in found
    ]
