"""Change the state of a job, in its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, update

from powerflow.api.acts import said
from powerflow.api.governance import AuditRecord
from powerflow.api.records import JobState, Refused
from powerflow.store import mappers
from powerflow.store.environments import forget
from powerflow.store.models import StoredJob
from powerflow.store.schema import jobs
from powerflow.store.statements import add_audit, add_event, stored_job
from powerflow.units import duration

#: Kind of the event that the last process of a job has ended, some time after the job got its final state.
ENDED = "ended"
#: States to which a job may go from its present state. Any job that has not ended may also end.
_MOVES = {
    JobState.QUEUED: {JobState.RUNNING, JobState.HELD},
    JobState.RUNNING: {JobState.QUEUED, JobState.HELD},
    JobState.HELD: {JobState.QUEUED},
}


def moved(
    connection: Connection,
    job_id: str,
    to: JobState,
    now_s: float,
    *,
    exit: str = "",
    reason: str | None = None,
    last_lines: Sequence[str] | None = None,
    text: str = "",
    asked: AuditRecord | None = None,
    ended_s: float | None = None,
    processes: bool | None = False,
) -> StoredJob:
    """Change the state of a job, and add an event for the change; `powerflow.store.store.Store.move` has the rest."""
    job = stored_job(connection, job_id)
    if job.state is to:
        return job
    if job.state.ended:
        raise Refused(f"job {job_id} has ended ({job.state.value})")
    if not to.ended and to not in _MOVES[job.state]:
        raise Refused(f"job {job_id} is {job.state.value} and cannot become {to.value}")
    values: dict[str, Any] = {"state": to.value, "state_since_s": now_s}
    if to is JobState.RUNNING and job.started_s is None:
        values["started_s"] = now_s
    if to.ended:
        values["exit"] = mappers.plain(exit)
        if not (job.state is JobState.RUNNING if processes is None else processes):
            values["ended_s"] = now_s if ended_s is None else ended_s
    if reason is not None:
        values["reason"] = mappers.plain(reason)
    if last_lines is not None:
        values["last_lines"] = mappers.to_json(list(last_lines))
    connection.execute(update(jobs).where(jobs.c.id == int(job_id)).values(values))
    if to.ended:
        forget(connection, job_id)
    fields = {"from": job.state.value, "to": to.value} | ({"exit": exit} if exit else {})
    fields |= {"by": asked.user} if asked else {}
    kind = asked.action.removeprefix("job ") if asked else to.value
    words = said(asked.action, asked.target, asked.user, asked.fields) if asked else text or exit
    add_event(connection, kind, words or f"now {to.value}", now_s, job_id, fields)
    add_audit(connection, [asked] if asked else [])
    return stored_job(connection, job_id)


def finish(connection: Connection, job_id: str, ended_s: float, now_s: float) -> None:
    """Note when the last process of a job ended, and add an event, as `powerflow.store.store.Store.finish` says."""
    job = stored_job(connection, job_id)
    if not job.completing:
        return
    connection.execute(update(jobs).where(jobs.c.id == int(job_id)).values(ended_s=ended_s))
    took = duration(max(0.0, ended_s - job.state_since_s))
    was = "failed" if job.state is JobState.FAILED else f"was {job.state.value}"
    add_event(connection, ENDED, f"its last process has ended, {took} after the job {was}", now_s, job_id, {})
