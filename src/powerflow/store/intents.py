"""What each job is to hold, written down before anything is done about it (table ``gangs``)."""

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
    """The latest `Intent` of each job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, intents: Sequence[Intent], now_s: float) -> frozenset[str]:
        """Write intents, and the job states that follow from them, all in one transaction.

        A job with GPUs is running; one without is queued, or held if it was. A job that was cancelled or held
        meanwhile must get no GPUs: its intent is left out.

        Returns:
            Ids of the jobs that were left out.

        Raises:
            ValueError: An epoch is not above the stored one (another decision came first), or is the stored one with
                other GPUs.
            NotFound: There is no such job.
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
        """Return the latest intent of every job that has not ended, in the order of jobs."""
        query = select(gangs).join(jobs).where(jobs.c.state.in_(mappers.ACTIVE)).order_by(gangs.c.job_id)
        with self._database.read() as connection:
            return [mappers.intent_of(row) for row in connection.execute(query).mappings()]

    def retire(self, job_id: str) -> None:
        """Note that a job holds nothing any more; its epoch stays, so that no later one can repeat it."""
        self._set(job_id, placement="[]")

    def rename_type(self, job_id: str, gpu_type: str) -> None:
        """Note the new name of the type of GPUs that a job holds."""
        self._set(job_id, gpu_type=gpu_type)

    def _set(self, job_id: str, **values: str) -> None:
        with self._database.write_claimed() as connection:
            connection.execute(update(gangs).where(gangs.c.job_id == mappers.number(job_id)).values(**values))


def _set_states(
    connection: Connection, intents: Sequence[Intent], states: Mapping[int, JobState], now_s: float
) -> None:
    """Bring jobs that neither ended nor are held into the state that their intents make, with an event for each."""
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
    """Raise ValueError unless an intent is newer than the stored one, or is the same except for its clock."""
    if stored is None or intent.epoch > stored.epoch:
        return
    if intent.epoch < stored.epoch:
        raise ValueError(f"job {intent.job_id}: epoch {intent.epoch} is over, {stored.epoch} is stored")
    if (intent.gpu_type, intent.placement) != (stored.gpu_type, stored.placement):
        raise ValueError(f"job {intent.job_id}: other GPUs need an epoch above {stored.epoch}")
