"""The durable state of a live cluster: what must survive the controller, the machine's reset and a full disk.

Every method is one transaction and safe to call from any thread. Where one raises, nothing of it was written; when it
returns, what it wrote is on disk. All may raise `StoreError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, bindparam, case, delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from powerflow.api.governance import AuditRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Account, DecisionRecord, EventRecord, JobState, NotFound, Page, Refused
from powerflow.errors import InputError
from powerflow.store import accounting as ledger
from powerflow.store import decision_log as log
from powerflow.store import mappers
from powerflow.store.database import Database, LostClaim, StoreError
from powerflow.store.high_marks import Marks
from powerflow.store.models import Charge, DecisionOutcome, Intent, JobUpdate, NodeState, Seen, StoredJob
from powerflow.store.schema import (
    audit,
    charges,
    claims,
    events,
    gangs,
    jobs,
    keys,
    nodes,
    observations,
    settings,
)

__all__ = ["Charge", "Intent", "JobUpdate", "NodeState", "Seen", "Store", "StoreError", "StoredJob"]

#: Where a job may go from where it is. From an end it goes nowhere; to any end it may go from anywhere else.
_MOVES = {
    JobState.QUEUED: {JobState.RUNNING, JobState.HELD},
    JobState.RUNNING: {JobState.QUEUED, JobState.HELD},
    JobState.HELD: {JobState.QUEUED},
}
_GIVEN_SQLITE = "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'"
_GIVEN_POSTGRESQL = "SELECT last_value FROM jobs_id_seq WHERE is_called"
_RAISE = "UPDATE sqlite_sequence SET seq = max(seq, :number) WHERE name = 'jobs'"
_ACTIVE = [state.value for state in JobState if not state.ended]


class Store:
    """The state of one cluster in one database.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``.
        wait_s: How long to wait for a lock or a server before giving up with `StoreError`.

    Raises:
        StoreError: It cannot be opened, or is newer than this PowerFlow.
        InputError: The URL names no database.
    """

    def __init__(self, url: str, *, wait_s: float = 5.0) -> None:
        self._database = Database(url, wait_s=wait_s)
        self._owner: str | None = None
        self._marks: Marks | None = None

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    # --- one controller at a time ---

    def claim(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Become the one controller of this store for ``lease_s``; False while another is.

        From then on every write of this object checks that the claim still is its own: a controller that slept past its
        lease cannot write over its successor.
        """
        mine_or_over = (claims.c.owner == owner) | (claims.c.until_s <= now_s)
        with self._database.write() as connection:
            row = {"id": 1, "owner": owner, "until_s": now_s + lease_s}
            statement = self._upsert(claims, ("id",), ("owner", "until_s"), where=mine_or_over)
            connection.execute(statement, row)
            claimed = connection.scalar(select(claims.c.owner)) == owner
        if claimed:
            self._owner = owner
        return claimed

    def renew(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Prolong a claim, even one that is over, if nobody else has claimed the store since."""
        with self._database.write() as connection:
            mine = update(claims).where(claims.c.owner == owner).values(until_s=now_s + lease_s)
            return connection.execute(mine).rowcount == 1

    def claimed_by(self) -> str | None:
        """Who has the claim, or had it last; None if nobody does."""
        with self._database.read() as connection:
            return connection.scalar(select(claims.c.owner))

    def unclaim(self, owner: str) -> None:
        """Give a claim back; nothing happens if it is another's."""
        with self._database.write() as connection:
            connection.execute(delete(claims).where(claims.c.owner == owner))
        if self._owner == owner:
            self._owner = None

    # --- jobs ---

    def submit(
        self, spec: JobSpec, user: str, now_s: float, key: str | None = None, address: str | None = None
    ) -> tuple[StoredJob, bool]:
        """Take a job; it is on disk when this returns. The same key of the same user again: the same job, and False.

        ``address``: from where it was asked; the audit says so then.

        Raises:
            Refused: The key was used for another spec.
        """
        with self._write() as connection:
            if key is not None:
                used = select(keys.c.job_id).where(keys.c.user == user, keys.c.key == key)
                if (number := connection.scalar(used)) is not None:
                    job = _job(connection, str(number))
                    if job.spec != spec:
                        raise Refused(f"key {key!r} was used for another job ({job.id})", fix="use a new key")
                    return job, False
            number = connection.scalar(insert(jobs).values(mappers.new_job(spec, user, now_s)).returning(jobs.c.id))
            if self._marks is not None:  # before anybody learns of it: a lost number is no harm, one given twice is
                self._marks.set(number=number or 0)
            if key is not None:
                connection.execute(insert(keys).values(user=user, key=key, job_id=number))
            _append(connection, "submitted", f"submitted by {user}", now_s, str(number), {"user": user})
            if address is not None:
                fields = {"name": spec.name, "gpus": str(spec.gpus), "project": spec.project}
                _note(connection, [AuditRecord(0, now_s, user, address, "job submitted", f"job {number}", fields)])
            return _job(connection, str(number)), True

    def knows_key(self, user: str, key: str) -> bool:
        """Whether a user has submitted a job under this key."""
        with self._database.read() as connection:
            used = select(keys.c.job_id).where(keys.c.user == user, keys.c.key == key)
            return connection.scalar(used) is not None

    def job(self, job_id: str) -> StoredJob:
        """One job.

        Raises:
            NotFound: There is no such job.
        """
        with self._database.read() as connection:
            return _job(connection, job_id)

    def jobs(
        self,
        states: Sequence[JobState] = (),
        user: str | None = None,
        project: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[StoredJob]:
        """Jobs, newest first; ``after`` is the ``next`` of the page before."""
        query = select(jobs).order_by(jobs.c.id.desc()).limit(_limit(limit) + 1)
        if states:
            query = query.where(jobs.c.state.in_([state.value for state in states]))
        if user is not None:
            query = query.where(jobs.c.user == user)
        if project is not None:
            query = query.where(jobs.c.project == project)
        if after is not None:
            query = query.where(jobs.c.id < _page_mark(after))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        page = [mappers.job_of(row) for row in rows[:limit]]
        return Page(page, page[-1].id if len(rows) > limit else None)

    def submitted(self, since_s: float) -> list[StoredJob]:
        """All jobs submitted since a moment, oldest first."""
        query = select(jobs).where(jobs.c.submitted_s >= since_s).order_by(jobs.c.submitted_s, jobs.c.id)
        with self._database.read() as connection:
            return [mappers.job_of(row) for row in connection.execute(query).mappings()]

    def first_submission_s(self) -> float | None:
        """When the first job was submitted; None before one was."""
        with self._database.read() as connection:
            first: float | None = connection.scalar(select(func.min(jobs.c.submitted_s)))
            return first

    def active(self) -> list[StoredJob]:
        """All jobs that have not ended, oldest first."""
        query = select(jobs).where(jobs.c.state.in_(_ACTIVE)).order_by(jobs.c.id)
        with self._database.read() as connection:
            return [mappers.job_of(row) for row in connection.execute(query).mappings()]

    def front(self, states: Sequence[JobState], limit: int) -> tuple[list[StoredJob], Mapping[JobState, int]]:
        """The first jobs, by state in this order and oldest first within one, and how many each state has."""
        rank = case({state.value: at for at, state in enumerate(states)}, value=jobs.c.state)
        mine = jobs.c.state.in_([state.value for state in states])
        with self._database.read() as connection:
            rows = connection.execute(
                select(jobs).where(mine).order_by(rank, jobs.c.id).limit(_limit(limit))
            ).mappings()
            first = [mappers.job_of(row) for row in rows]
            counted = connection.execute(select(jobs.c.state, func.count()).where(mine).group_by(jobs.c.state))
            return first, dict.fromkeys(states, 0) | {JobState(state): count for state, count in counted}

    def move(
        self,
        job_id: str,
        to: JobState,
        now_s: float,
        *,
        exit: str = "",
        reason: str | None = None,
        last_lines: Sequence[str] | None = None,
        text: str = "",
        asked: AuditRecord | None = None,
    ) -> StoredJob:
        """Bring a job into another state, and say so among the events (``text``, of the state's kind).

        ``asked``: who wants it so, for the audit.

        A job that is in that state already is left as it is. What runs can be queued again or held, what is held can
        only be queued, and all that has not ended can end, once.

        Raises:
            NotFound: There is no such job.
            Refused: It cannot go there from where it is.
        """
        with self._write() as connection:
            job = _job(connection, job_id)
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
                values |= {"ended_s": now_s, "exit": mappers.plain(exit)}
            if reason is not None:
                values["reason"] = mappers.plain(reason)
            if last_lines is not None:
                values["last_lines"] = mappers.to_json(list(last_lines))
            connection.execute(update(jobs).where(jobs.c.id == int(job_id)).values(values))
            fields = {"from": job.state.value, "to": to.value} | ({"exit": exit} if exit else {})
            _append(connection, to.value, text or exit or f"now {to.value}", now_s, job_id, fields)
            _note(connection, [] if asked is None else [asked])
            return _job(connection, job_id)

    def update(self, rows: Sequence[JobUpdate]) -> None:
        """Take what has changed of some jobs: all of it or, where one is unknown, nothing.

        Raises:
            NotFound: There is no such job.
        """
        if not rows:
            return
        values = {
            name: func.coalesce(bindparam(f"new_{name}", type_=jobs.c[name].type), jobs.c[name])
            for name in mappers.CHANGES
        }
        statement = update(jobs).where(jobs.c.id == bindparam("number")).values(values)
        with self._write() as connection:
            _states(connection, (row.job_id for row in rows))
            connection.execute(statement, [mappers.changes(row) for row in rows])

    # --- numbers are given once, whatever becomes of the database ---

    def follow(self, marks: Marks) -> None:
        """From now on note outside the database, too, which numbers were given and that something was launched."""
        self._marks = marks
        self._database.checkpoint()  # a log that is lost from now on takes no name with it

    def beat(self) -> None:
        """Note that something is about to be launched: first here, then outside."""
        if self._marks is None:
            return
        beat = self._marks.beat + 1
        self.put("beat", beat)
        self._marks.set(beat=beat)

    def last_number(self) -> int:
        """Highest number that a job was given, or could have been (`raise_number`); 0 where none was."""
        with self._database.read() as connection:
            given = connection.scalar(text(_GIVEN_SQLITE if self._database.is_sqlite else _GIVEN_POSTGRESQL))
            return max(int(given or 0), int(connection.scalar(select(func.max(jobs.c.id))) or 0))

    def last_time_s(self) -> float | None:
        """When the newest event happened; None where there is none."""
        with self._database.read() as connection:
            newest: float | None = connection.scalar(select(func.max(events.c.time_s)))
            return newest

    def raise_number(self, number: int) -> None:
        """Have the next job's number be above this one."""
        with self._write() as connection:
            if not self._database.is_sqlite:
                connection.execute(text("SELECT setval('jobs_id_seq', :number) WHERE :number > 0"), {"number": number})
            elif not connection.execute(text(_RAISE), {"number": number}).rowcount:
                connection.execute(text("INSERT INTO sqlite_sequence VALUES ('jobs', :number)"), {"number": number})

    # --- gangs: intent before action ---

    def intend(self, intents: Sequence[Intent], now_s: float) -> frozenset[str]:
        """Write down what jobs are to hold, before anything is done about it, and the state that follows from it.

        With GPUs a job is running, without them queued, or held if it was. All is written in one transaction or nothing
        is. A job that was cancelled or held meanwhile is to have no GPUs: its intent is left out.

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
        with self._write() as connection:
            states = _states(connection, (intent.job_id for intent in intents))
            idle = {number for number, state in states.items() if state.ended or state is JobState.HELD}
            taken = [intent for intent in intents if not (intent.placement and int(intent.job_id) in idle)]
            query = select(gangs).where(gangs.c.job_id.in_([int(intent.job_id) for intent in taken]))
            stored = {row["job_id"]: mappers.intent_of(row) for row in connection.execute(query).mappings()}
            for intent in taken:
                _fence(intent, stored.get(int(intent.job_id)))
                stored[int(intent.job_id)] = intent
            if taken:
                rows = [mappers.gang_row(intent, now_s) for intent in taken]
                connection.execute(self._upsert(gangs, ("job_id",), columns), rows)
                _follow(connection, [intent for intent in taken if int(intent.job_id) not in idle], states, now_s)
        return frozenset(intent.job_id for intent in intents) - {intent.job_id for intent in taken}

    def intents(self) -> list[Intent]:
        """The latest intent of every job that has not ended, by job."""
        return self._intents(jobs.c.state.in_(_ACTIVE))

    def leftovers(self) -> list[Intent]:
        """Intents of ended jobs that were not retired: something of them may still be on their GPUs."""
        return self._intents(jobs.c.state.not_in(_ACTIVE) & (gangs.c.placement != "[]"))

    def retire(self, job_id: str) -> None:
        """Note that a job holds nothing any more; its epoch stays, so that no later one can repeat it."""
        with self._write() as connection:
            connection.execute(update(gangs).where(gangs.c.job_id == mappers.number(job_id)).values(placement="[]"))

    def rename_type(self, job_id: str, gpu_type: str) -> None:
        """Note that the type of the GPUs that a job holds is called otherwise by now."""
        with self._write() as connection:
            connection.execute(update(gangs).where(gangs.c.job_id == mappers.number(job_id)).values(gpu_type=gpu_type))

    def _intents(self, which: Any) -> list[Intent]:
        query = select(gangs).join(jobs).where(which).order_by(gangs.c.job_id)
        with self._database.read() as connection:
            return [mappers.intent_of(row) for row in connection.execute(query).mappings()]

    # --- learning ---

    def observe(self, rows: Sequence[Seen]) -> None:
        """Keep measured configurations.

        Raises:
            NotFound: There is no such job.
        """
        if not rows:
            return
        with self._write() as connection:
            _states(connection, (row.job_id for row in rows))
            connection.execute(insert(observations), [mappers.seen_row(row) for row in rows])

    def observations(self) -> list[Seen]:
        """All that was measured, in order of arrival."""
        with self._database.read() as connection:
            return _observations(connection)

    def compact(self) -> int:
        """Make one observation of all that a class saw of the same configuration; how many rows went.

        Step time and power become means weighted by steps; job and time are those of the latest.
        """
        with self._write() as connection:
            seen = _observations(connection)
            merged = mappers.merged(seen)
            if len(merged) < len(seen):
                connection.execute(delete(observations))
                connection.execute(insert(observations), [mappers.seen_row(row) for row in merged])
            return len(seen) - len(merged)

    # --- energy ---

    def charge(self, rows: Sequence[Charge], put: Mapping[str, Any] | None = None) -> None:
        """Add joules and GPU-seconds to the hours they fall in, and to what their jobs were charged in all.

        A charge over several hours is split by time.

        ``put``: settings to keep (see `put`) in the same transaction: the state of a meter, so that no joule is in
        both or in neither.

        Raises:
            NotFound: There is no such job.
        """
        if not rows:
            return
        statement = self._upsert(charges, ("job_id", "hour"), ("energy_j", "gpu_s"), add=True)
        hours = ledger.hourly(rows)
        with self._write() as connection:
            _states(connection, (row.job_id for row in rows if row.job_id is not None))
            connection.execute(statement, hours)
            if owed := [mappers.owed(row) for row in rows if row.job_id is not None]:
                more = {name: jobs.c[name] + bindparam(f"more_{name}") for name in ("energy_j", "gpu_s")}
                connection.execute(update(jobs).where(jobs.c.id == bindparam("number")).values(more), owed)
            for key, value in (put or {}).items():
                self._put(connection, key, value)

    def accounts(self, since_s: float, until_s: float, by: str) -> list[Account]:
        """Who was charged what in a window, by ``user``, ``project`` or ``job``; see `powerflow.store.accounting`."""
        with self._database.read() as connection:
            return ledger.accounts(connection, since_s, until_s, by)

    def hourly(self, since_s: float, until_s: float, by: str) -> list[ledger.Hour]:
        """Who (None: nobody) was charged how many joules in which hour since 1970, in such a window."""
        with self._database.read() as connection:
            return ledger.by_hour(connection, since_s, until_s, by)

    def energy_totals(self) -> tuple[float, float, float]:
        """Joules since the store was made: metered, of jobs, of idle GPUs; the last two make the first."""
        with self._database.read() as connection:
            return ledger.totals(connection)

    # --- nodes, events, settings ---

    def set_node(self, name: str, state: str, reason: str, now_s: float, by: str, address: str = "") -> None:
        """Note what became of a node, and say so among the events (kind ``node``) and in the audit."""
        row = {"name": name, "state": state, "reason": mappers.plain(reason), "since_s": now_s, "by": by}
        what = AuditRecord(0, now_s, by, address, f"node {state}", name, {"reason": reason})
        with self._write() as connection:
            connection.execute(self._upsert(nodes, ("name",), ("state", "reason", "since_s", "by")), row)
            text = f"{name} is {state}" + (f": {reason}" if reason else "")
            _append(connection, "node", text, now_s, None, {"node": name, "state": state, "by": by})
            connection.execute(insert(audit), [mappers.audit_row(what)])

    def node_states(self) -> dict[str, NodeState]:
        """What was noted last of each node, by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(nodes).order_by(nodes.c.name)).mappings()
            return {row["name"]: NodeState(**row) for row in rows}

    def append(self, kind: str, text: str, now_s: float, job_id: str | None = None, **fields: Any) -> int:
        """Note that something happened; its number, which rises. ``fields`` are plain JSON."""
        with self._write() as connection:
            return _append(connection, kind, text, now_s, job_id, fields)

    def events(self, after: int = 0, job_id: str | None = None, limit: int = 100) -> Page[EventRecord]:
        """What happened after event number ``after``, oldest first."""
        query = select(events).where(events.c.number > after).order_by(events.c.number).limit(_limit(limit) + 1)
        if job_id is not None:
            query = query.where(events.c.job_id == mappers.number(job_id))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        page = [mappers.event_of(row) for row in rows[:limit]]
        return Page(page, str(page[-1].number) if len(rows) > limit else None)

    def last_event(self) -> int:
        """Number of the newest event; 0 where there is none."""
        with self._database.read() as connection:
            return int(connection.scalar(select(func.max(events.c.number))) or 0)

    def get(self, key: str, default: Any = None) -> Any:
        """A setting; ``default`` where it was never put."""
        with self._database.read() as connection:
            value = connection.scalar(select(settings.c.value).where(settings.c.key == key))
        return default if value is None else json.loads(value)

    def put(self, key: str, value: Any) -> None:
        """Keep a setting: anything that JSON can say."""
        with self._write() as connection:
            self._put(connection, key, value)

    # --- who set what ---

    def decide(self, rows: Sequence[DecisionRecord]) -> None:
        """Add to the log of decisions; numbers are given here."""
        with self._write() as connection:
            log.add(connection, rows)

    def decisions(self, job_id: str, after: int = 0, limit: int = 100) -> Page[DecisionRecord]:
        """What was decided for a job after decision number ``after``, oldest first."""
        with self._database.read() as connection:
            return log.of_job(connection, job_id, after, _limit(limit))

    def forget_decisions(self, ended_before_s: float) -> int:
        """Drop the stories of jobs that ended before then; how many decisions went."""
        with self._write() as connection:
            return log.forget(connection, ended_before_s)

    def outcomes(self, since_s: float, projects: Sequence[str] | None = None) -> list[DecisionOutcome]:
        """Completed jobs beside what had been expected of them; see `powerflow.store.decision_log.outcomes`."""
        with self._database.read() as connection:
            return log.outcomes(connection, since_s, projects)

    def govern(self, key: str, value: Any, whats: Sequence[AuditRecord]) -> None:
        """Keep a setting that somebody made, and who it was: both or neither."""
        with self._write() as connection:
            self._put(connection, key, value)
            _note(connection, whats)

    def note(self, rows: Sequence[AuditRecord]) -> None:
        """Add to the audit; numbers are given here."""
        with self._write() as connection:
            _note(connection, rows)

    def audit(self, after: int = 0, limit: int = 100) -> Page[AuditRecord]:
        """Who set what after entry number ``after``, oldest first."""
        query = select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(_limit(limit) + 1)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        page = [mappers.audit_of(row) for row in rows[:limit]]
        return Page(page, str(page[-1].number) if len(rows) > limit else None)

    # --- how ---

    def _put(self, connection: Connection, key: str, value: Any) -> None:
        connection.execute(self._upsert(settings, ("key",), ("value",)), {"key": key, "value": mappers.to_json(value)})

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._database.write() as connection:
            if self._owner is not None and connection.scalar(select(claims.c.owner)) != self._owner:
                raise LostClaim
            yield connection

    def _upsert(
        self,
        table: Table,
        key: Sequence[str],
        columns: Sequence[str],
        *,
        add: bool = False,
        where: ColumnElement[bool] | None = None,
    ) -> Any:
        """Insert a row or, where its key exists, set ``columns`` (or add to them) if ``where`` holds."""
        statement = sqlite.insert(table) if self._database.is_sqlite else postgresql.insert(table)
        new = {name: table.c[name] + statement.excluded[name] if add else statement.excluded[name] for name in columns}
        return statement.on_conflict_do_update(index_elements=list(key), set_=new, where=where)


def _job(connection: Connection, job_id: str) -> StoredJob:
    row = connection.execute(select(jobs).where(jobs.c.id == mappers.number(job_id))).mappings().first()
    if row is None:
        raise NotFound(f"no job {job_id}")
    return mappers.job_of(row)


def _states(connection: Connection, job_ids: Iterable[str]) -> dict[int, JobState]:
    """States of some jobs, by number.

    Raises:
        NotFound: One of them does not exist.
    """
    numbers = {mappers.number(job_id) for job_id in job_ids}
    found = connection.execute(select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(numbers)))
    states = {number: JobState(state) for number, state in found}
    if missing := numbers - states.keys():
        raise NotFound(f"no job {min(missing)}")
    return states


def _follow(connection: Connection, intents: Sequence[Intent], states: Mapping[int, JobState], now_s: float) -> None:
    """Bring jobs that neither ended nor are held into the state that their intents make, and say so."""
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
    rows, said = [], []
    for intent, to in moves:
        started_s = now_s if to is JobState.RUNNING else None
        row = {"new_state": to.value, "new_reason": mappers.plain(intent.reason), "new_started_s": started_s}
        rows.append({"number": int(intent.job_id), **row})
        fields = {"from": states[int(intent.job_id)].value, "to": to.value}
        said.append(mappers.event_row(to.value, intent.reason or f"now {to.value}", now_s, intent.job_id, fields))
    connection.execute(update(jobs).where(jobs.c.id == bindparam("number")).values(values), rows)
    connection.execute(insert(events), said)


def _fence(intent: Intent, stored: Intent | None) -> None:
    """Raise ValueError unless an intent is newer than the stored one, or is the same but for its clock."""
    if stored is None or intent.epoch > stored.epoch:
        return
    if intent.epoch < stored.epoch:
        raise ValueError(f"job {intent.job_id}: epoch {intent.epoch} is over, {stored.epoch} is stored")
    if (intent.gpu_type, intent.placement) != (stored.gpu_type, stored.placement):
        raise ValueError(f"job {intent.job_id}: other GPUs need an epoch above {stored.epoch}")


def _observations(connection: Connection) -> list[Seen]:
    rows = connection.execute(select(observations).order_by(observations.c.id)).mappings()
    return [mappers.seen_of(row) for row in rows]


def _note(connection: Connection, rows: Sequence[AuditRecord]) -> None:
    if rows:
        connection.execute(insert(audit), [mappers.audit_row(row) for row in rows])


def _append(
    connection: Connection, kind: str, text: str, now_s: float, job_id: str | None, fields: Mapping[str, Any]
) -> int:
    row = mappers.event_row(kind, text, now_s, job_id, fields)
    return int(connection.execute(insert(events).values(row).returning(events.c.number)).scalar_one())


def _limit(limit: int) -> int:
    if limit < 1:
        raise InputError(f"limit is {limit}", fix="ask for at least one")
    return limit


def _page_mark(after: str) -> int:
    try:
        return mappers.number(after)
    except NotFound:
        raise InputError(f"{after!r} is no page", fix="give what the page before called next") from None
