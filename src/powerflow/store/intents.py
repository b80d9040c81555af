"""Store the desired state of each job (table ``gangs``) before the controller starts or stops processes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, func, insert, select, update

from powerflow.api.records import JobState
from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.models import Intent
from powerflow.store.schema import events, gangs, jobs
from powerflow.store.statements import states_of


class Intents:
    """The latest `Intent` of each job: the GPUs and clock that the controller wants the job to have."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, intents: Sequence[Intent], now_s: float) -> frozenset[str]:
        """Write intents, and the job states that follow from them, in one transaction.

        A job whose intent has GPUs becomes running. A job whose intent has none becomes queued, or stays held. If a job
        was cancelled or held since the decision, an intent that gives it GPUs is not written.

        Returns:
            Ids of the jobs whose intents were not written.

        Raises:
            ValueError: The epoch of an intent is lower than the stored epoch (a later decision was written first), or
                equal to it with other GPUs.
            NotFound: An intent names a job that does not exist.
        """
        if not intents:
            return frozenset()
        columns = ("epoch", "gpu_type", "placement", "clock_mhz", "reason", "intended_s")
        with self._database.write_claimed() as connection:
            states = states_of(connection, (intent.job_id for intent in intents))
            idle = {number for number, state in states.items() if state.ended or state is JobState.HELD}
            taken = [intent for intent in intents if not (intent.placement and int(intent.job_id) in idle)]
            query = select(gangs).where(gangs.c.job_id.in_([int(intent.job_id) for intent in taken]))
            stored = {row["job_id"]: mappers.intent_of(row) for row in connection.execute(query).mappings()}
            for intent in taken:
                _check_epoch(intent, stored.get(int(intent.job_id)))
                stored[int(intent.job_id)] = intent
            if taken:
                rows = [mappers.gang_row(intent, now_s) for intent in taken]
                connection.execute(self._database.upsert(gangs, ("job_id",), columns), rows)
                _set_states(connection, [intent for intent in taken if int(intent.job_id) not in idle], states, now_s)
        return frozenset(intent.job_id for intent in intents) - {intent.job_id for intent in taken}

    def active(self) -> list[Intent]:
        """Return the latest intent of every job that has not ended, in the order of job numbers."""
        query = select(gangs).join(jobs).where(jobs.c.state.in_(mappers.ACTIVE)).order_by(gangs.c.job_id)
        with self._database.read() as connection:
            return [mappers.intent_of(row) for row in connection.execute(query).mappings()]

    def retire(self, job_id: str) -> None:
        """Store that a job holds no GPUs any more. Its epoch is kept, so that it is never used again."""
        self._set(job_id, placement="[]")

    def rename_type(self, job_id: str, gpu_type: str) -> None:
        """Store a new name of the GPU type of a job's GPUs."""
        self._set(job_id, gpu_type=gpu_type)

    def _set(self, job_id: str, **values: str) -> None:
        with self._database.write_claimed() as connection:
            connection.execute(update(gangs).where(gangs.c.job_id == mappers.number(job_id)).values(**values))


def _set_states(
    connection: Connection, intents: Sequence[Intent], states: Mapping[int, JobState], now_s: float
) -> None:
    """Set jobs to the state that their intents imply, and add an event for each job whose state changes.

    The caller leaves out intents of jobs that are held or have ended.
    """
    moves = [(intent, JobState.RUNNING if intent.placement else JobState.QUEUED) for intent in intents]
    moves = [(intent, to) for intent, to in moves if states[int(intent.job_id)] is not to]
    if not moves:
        return
    values = {
        "state": bindparam("new_state"),
        "state_since_s": now_s,
        "reason": bindparam("new_reason"),
        "started_s": func.coalesce(jobs.c.started_s, bindparam("new_started_s", type_=jobs.c.started_s.type)),
    }
    rows, event_rows = [], []
    for intent, to in moves:
        started_s = now_s if to is JobState.RUNNING else None
        row = {"new_state": to.value, "new_reason": mappers.plain(intent.reason), "new_started_s": started_s}
        rows.append({"number": int(intent.job_id), **row})
        fields = {"from": states[int(intent.job_id)].value, "to": to.value}
        event_rows.append(mappers.event_row(to.value, intent.reason or f"now {to.value}", now_s, intent.job_id, fields))
    connection.execute(update(jobs).where(jobs.c.id == bindparam("number")).values(values), rows)
    connection.execute(insert(events), event_rows)


def _check_epoch(intent: Intent, stored: Intent | None) -> None:
    """Check that an intent has a higher epoch than the stored one, or differs from it in the clock only.

    Raises:
        ValueError: Neither is the case.
    """
    if stored is None or intent.epoch > stored.epoch:
        return
    if intent.epoch < stored.epoch:
        raise ValueError(f"job {intent.job_id}: epoch {intent.epoch} is too old, the store has {stored.epoch}")
    if (intent.gpu_type, intent.placement) != (stored.gpu_type, stored.placement):
        raise ValueError(f"job {intent.job_id}: other GPUs need an epoch above {stored.epoch}")
