"""Insert the rows of submitted jobs, and find the job of a repeated submission."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update

from powerflow.api.acts import said
from powerflow.api.governance import AuditRecord
from powerflow.api.job_array import read_array
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState, Refused
from powerflow.store import mappers
from powerflow.store.environments import keep
from powerflow.store.models import StoredJob
from powerflow.store.schema import jobs, keys
from powerflow.store.statements import add_audit, add_event


def insert_jobs(connection: Connection, spec: JobSpec, user: str, now_s: float) -> list[int]:
    """Insert the row of a job, or the rows of all tasks of an array, and return their numbers."""
    row = {**mappers.new_job(spec, user, now_s), "environment": keep(connection, spec.shell_env)}
    if spec.array is None:
        return [connection.execute(insert(jobs).values(row).returning(jobs.c.id)).scalar_one()]
    first, *others = read_array(spec.array).tasks
    array_id = connection.execute(insert(jobs).values({**row, "array_task": first}).returning(jobs.c.id)).scalar_one()
    connection.execute(update(jobs).where(jobs.c.id == array_id).values(array_id=array_id))
    if others:
        connection.execute(insert(jobs), [{**row, "array_id": array_id, "array_task": task} for task in others])
    return list(connection.scalars(select(jobs.c.id).where(jobs.c.array_id == array_id).order_by(jobs.c.id)))


def tell_submission(
    connection: Connection, spec: JobSpec, numbers: Sequence[int], user: str, now_s: float, address: str | None
) -> None:
    """Add an event for each new job, and an audit entry for the request; ``address`` None: no audit entry."""
    fields = {"name": spec.name, "gpus": str(spec.gpus), "project": spec.project}
    fields |= {"array": spec.array} if spec.array else {}
    what = AuditRecord(0, now_s, user, address or "", "job submitted", f"job {numbers[0]}", fields)
    for number in numbers:
        words = said(what.action, f"job {number}", user, fields)
        add_event(connection, "submitted", words, now_s, str(number), {"user": user})
    add_audit(connection, [] if address is None else [what])


def respecify(
    connection: Connection,
    job: StoredJob,
    spec: JobSpec,
    now_s: float,
    states: Collection[JobState],
    asked: AuditRecord,
) -> None:
    """Give a job another specification, and add an event and an audit entry.

    Raises:
        Refused: The job is in none of the given states.
    """
    if job.state not in states:
        fix = "hold it first" if job.state is JobState.RUNNING else ""
        raise Refused(f"job {job.id} is {job.state.value} and cannot be changed in this way", fix=fix)
    new: dict[str, Any] = {"spec": mappers.spec_text(spec), "project": spec.project}
    if spec.work != job.spec.work:
        new["steps_total"] = spec.work.iterations if spec.work else None
    connection.execute(update(jobs).where(jobs.c.id == int(job.id)).values(new))
    words = said(asked.action, asked.target, asked.user, asked.fields)
    add_event(connection, "updated", words, now_s, job.id, {"by": asked.user})
    add_audit(connection, [asked])


def with_key(user: str, key: str) -> Select[Any]:
    """Return the query for the number of the job that a user has submitted with a key."""
    return select(keys.c.job_id).where(keys.c.user == user, keys.c.key == key)
