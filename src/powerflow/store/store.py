"""Store the state of a live cluster in a database. It survives a killed controller, a power failure and a full disk.

Each method is one transaction and can be called from any thread. When a method returns, its changes are on disk. When
it raises an exception, nothing was written. Every method may raise `StoreError`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, case, func, insert, select, text

from powerflow.api.governance import AuditRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import ALL_JOBS, EVERYTHING, JobFilter, NumberedPage, Page, RecordFilter
from powerflow.api.records import EventRecord, JobState, NotFound, Refused
from powerflow.store import mappers, statements
from powerflow.store.accounting import Charges
from powerflow.store.database import Database
from powerflow.store.decision_log import Decisions
from powerflow.store.ended import EndedJobs
from powerflow.store.environments import Environments
from powerflow.store.high_marks import Marks
from powerflow.store.intents import Intents
from powerflow.store.leader_lease import LeaderLease
from powerflow.store.models import JobUpdate, NodeState, StoredJob
from powerflow.store.moves import finish, moved
from powerflow.store.observations import Observations
from powerflow.store.schema import events, jobs, keys, nodes, settings
from powerflow.store.statements import add_acts, add_audit, add_event, checked, put_setting, states_of, stored_job
from powerflow.store.story import page_of_audit, page_of_events
from powerflow.store.submission import insert_jobs, respecify, tell_submission, with_key

_GIVEN_SQLITE = "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'"
_GIVEN_POSTGRESQL = "SELECT last_value FROM jobs_id_seq WHERE is_called"
_RAISE = "UPDATE sqlite_sequence SET seq = max(seq, :number) WHERE name = 'jobs'"


class Store:
    """State of one cluster in one database: jobs, nodes, events, settings and the audit.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``.
        wait_s: How many seconds to wait for a lock or a server before raising `StoreError`.

    Attributes:
        lease: The lease, with which only one controller at a time may work on this store.
        intents: Desired state of each job.
        charges: Energy and GPU time that were charged to jobs.
        ended: Jobs that have ended, and what they had and used.
        decisions: Log of the scheduler's decisions on each job.
        environments: Environment variables with which active jobs were submitted.
        observations: Measured step times and watts of jobs.

    Raises:
        StoreError: The database cannot be opened, or its tables are newer than this PowerFlow.
        InputError: The URL does not name a SQLite or PostgreSQL database.
    """

    def __init__(self, url: str, *, wait_s: float = 5.0) -> None:
        self._database = Database(url, wait_s=wait_s)
        self._marks: Marks | None = None
        self.lease = LeaderLease(self._database)
        self.intents = Intents(self._database)
        self.charges = Charges(self._database)
        self.ended = EndedJobs(self._database)
        self.decisions = Decisions(self._database)
        self.environments = Environments(self._database)
        self.observations = Observations(self._database)

    def close(self) -> None:
        """Close all connections to the database."""
        self._database.close()

    # --- jobs ---

    def submit(
        self, spec: JobSpec, user: str, now_s: float, key: str | None = None, address: str | None = None
    ) -> tuple[StoredJob, bool]:
        """Store a new job, or all jobs of a new array.

        Args:
            spec: The definition of the job.
            user: The user to whom the job belongs.
            now_s: Time of submission, in Unix seconds.
            key: Text by which a repeated request is recognised. If the user has used it before, the earlier job is
                returned, and no new one is stored.
            address: Network address of the request, for the audit; None to write no audit entry.

        Returns:
            The job (the first one of an array), and True if it is new.

        Raises:
            Refused: The user has used the key for a different spec.
        """
        with self._database.write_claimed() as connection:
            if key is not None and (number := connection.scalar(with_key(user, key))) is not None:
                job = stored_job(connection, str(number))
                if job.spec != spec.model_copy(update={"shell_env": {}}):
                    raise Refused(f"key {key!r} was used for another job ({job.id})", fix="use a new key")
                return job, False
            numbers = insert_jobs(connection, spec, user, now_s)
            if self._marks is not None:  # first: a number that gets lost does no harm, but a number given twice does
                self._marks.set(number=numbers[-1])
            if key is not None:
                connection.execute(insert(keys).values(user=user, key=key, job_id=numbers[0]))
            tell_submission(connection, spec, numbers, user, now_s, address)
            return stored_job(connection, str(numbers[0])), True

    def knows_key(self, user: str, key: str) -> bool:
        """Return True if a user has submitted a job with this key (see `submit`)."""
        with self._database.read() as connection:
            return connection.scalar(with_key(user, key)) is not None

    def job(self, job_id: str) -> StoredJob:
        """Return the job with this id.

        Raises:
            NotFound: There is no job with this id.
        """
        with self._database.read() as connection:
            return stored_job(connection, job_id)

    def array(self, array_id: str) -> list[str]:
        """Return the ids of all jobs of an array, in the order of their tasks; none if there is no such array."""
        query = select(jobs.c.id).where(jobs.c.array_id == mappers.number(array_id)).order_by(jobs.c.id)
        with self._database.read() as connection:
            return [str(number) for number in connection.scalars(query)]

    def jobs(self, only: JobFilter = ALL_JOBS, after: str | None = None, limit: int = 100) -> Page[StoredJob]:
        """Return one page of jobs, newest first.

        Args:
            only: Which jobs.
            after: Value of ``next`` on the previous page; None for the first page.
            limit: Largest number of jobs on the page.
        """
        query = (
            statements.selected(select(jobs), only, sqlite=self._database.is_sqlite)
            .order_by(jobs.c.id.desc())
            .limit(checked(limit) + 1)
        )
        if after is not None:
            query = query.where(jobs.c.id < statements.page_mark(after))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        page = [mappers.job_of(row) for row in rows[:limit]]
        return Page(page, page[-1].id if len(rows) > limit else None)

    def submitted(self, since_s: float) -> list[StoredJob]:
        """Return all jobs submitted since a time (Unix seconds), oldest first."""
        return self._all(select(jobs).where(jobs.c.submitted_s >= since_s).order_by(jobs.c.submitted_s, jobs.c.id))

    def first_submission_s(self) -> float | None:
        """Return the submission time of the first job, in Unix seconds; None if there is no job."""
        with self._database.read() as connection:
            first: float | None = connection.scalar(select(func.min(jobs.c.submitted_s)))
            return first

    def active(self) -> list[StoredJob]:
        """Return all jobs that have not ended, oldest first."""
        return self._all(select(jobs).where(jobs.c.state.in_(mappers.ACTIVE)).order_by(jobs.c.id))

    def completing(self) -> list[StoredJob]:
        """Return all jobs that have a final state, and of which processes may still run, oldest first."""
        return self._all(select(jobs).where(statements.IS_COMPLETING).order_by(jobs.c.id))

    def front(self, states: Sequence[JobState], limit: int) -> tuple[list[StoredJob], Mapping[JobState, int]]:
        """Return at most ``limit`` jobs in the given states, and the number of jobs in each state.

        Jobs are sorted by state (in the order of ``states``), then by age, the oldest first.
        """
        rank = case({state.value: at for at, state in enumerate(states)}, value=jobs.c.state)
        mine = jobs.c.state.in_([state.value for state in states])
        query = select(jobs).where(mine).order_by(rank, jobs.c.id).limit(checked(limit))
        with self._database.read() as connection:
            first = [mappers.job_of(row) for row in connection.execute(query).mappings()]
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
        ended_s: float | None = None,
        processes: bool | None = False,
    ) -> StoredJob:
        """Change the state of a job, and add an event for the change.

        Nothing changes if the job has this state already.

        Args:
            job_id: The job's id.
            to: The new state. Allowed are queued → running or held, running → queued or held, held → queued, and each
                of these → completed, failed or cancelled.
            now_s: Unix seconds.
            exit: How the job ended, in plain words.
            reason: Why the job has its present GPUs; None keeps the stored reason.
            last_lines: The last lines of the job's log.
            text: Text of the event, if nobody asked for the change.
            asked: Audit entry about the request for this change; the event has its text.
            ended_s: When the last process of a job ended that gets a final state; None: now.
            processes: True if processes of a job that gets a final state may still run. Then its end is not noted
                before `finish`. None: True if the job is running.

        Raises:
            NotFound: There is no job with this id.
            Refused: The job cannot go from its present state to the new one.
        """
        with self._database.write_claimed() as connection:
            return moved(
                connection,
                job_id,
                to,
                now_s,
                exit=exit,
                reason=reason,
                last_lines=last_lines,
                text=text,
                asked=asked,
                ended_s=ended_s,
                processes=processes,
            )

    def finish(self, job_id: str, ended_s: float, now_s: float) -> None:
        """Note when the last process of a job ended that has a final state already. Nothing changes if it is noted.

        Raises:
            NotFound: There is no job with this id.
        """
        with self._database.write_claimed() as connection:
            finish(connection, job_id, ended_s, now_s)

    def move_all(
        self, wishes: Sequence[tuple[str, AuditRecord]], to: JobState, now_s: float, holding: Collection[str] = ()
    ) -> list[StoredJob | Refused | NotFound]:
        """Change the states of several jobs in one transaction, as `move` does; return a job or an error for each.

        Args:
            wishes: Id of each job, and the audit entry about the request for its change.
            to: The new state of all of them.
            now_s: Unix seconds.
            holding: Jobs that have processes, although they are not running.
        """
        found: list[StoredJob | Refused | NotFound] = []
        with self._database.write_claimed() as connection:
            for job_id, asked in wishes:
                by = f"{asked.action.removeprefix('job ')} by {asked.user}"
                runs, end = job_id in holding or None, by if to.ended else ""
                try:
                    job = moved(connection, job_id, to, now_s, exit=end, reason=by, asked=asked, processes=runs)
                except (Refused, NotFound) as error:
                    found.append(error)
                else:
                    found.append(job)
        return found

    def respecify(
        self, job_id: str, spec: JobSpec, now_s: float, states: Sequence[JobState], asked: AuditRecord
    ) -> StoredJob:
        """Give a job another specification, and add an event and an audit entry.

        Raises:
            NotFound: There is no job with this id.
            Refused: The job is in none of the given states.
        """
        with self._database.write_claimed() as connection:
            respecify(connection, stored_job(connection, job_id), spec, now_s, states, asked)
            return stored_job(connection, job_id)

    def update(self, rows: Sequence[JobUpdate]) -> None:
        """Store changes of several jobs. If one of the jobs does not exist, no change is stored.

        Raises:
            NotFound: One of the jobs does not exist.
        """
        if not rows:
            return
        with self._database.write_claimed() as connection:
            states_of(connection, (row.job_id for row in rows))
            connection.execute(statements.changes_of_jobs(), [mappers.changes(row) for row in rows])

    # --- job numbers, each given once even if the database is restored from a backup ---

    def follow(self, marks: Marks) -> None:
        """From now on, write the highest job number and the number of launches to the file ``marks``, too."""
        self._marks = marks
        self._database.checkpoint()  # if the write-ahead log gets lost later, the names are not lost with it

    def beat(self) -> None:
        """Count one launch, in the database and then in the file given to `follow`. Call this before the launch."""
        if self._marks is None:
            return
        beat = self._marks.beat + 1
        self.put("beat", beat)
        self._marks.set(beat=beat)

    def last_number(self) -> int:
        """Return the highest job number that was used, or skipped by `raise_number`; 0 if there is none."""
        with self._database.read() as connection:
            given = connection.scalar(text(_GIVEN_SQLITE if self._database.is_sqlite else _GIVEN_POSTGRESQL))
            return max(int(given or 0), int(connection.scalar(select(func.max(jobs.c.id))) or 0))

    def last_time_s(self) -> float | None:
        """Return the time of the newest event, in Unix seconds; None if there is no event."""
        with self._database.read() as connection:
            newest: float | None = connection.scalar(select(func.max(events.c.time_s)))
            return newest

    def raise_number(self, number: int) -> None:
        """Skip all job numbers up to ``number``, so that the next job gets a higher number."""
        with self._database.write_claimed() as connection:
            if not self._database.is_sqlite:
                connection.execute(text("SELECT setval('jobs_id_seq', :number) WHERE :number > 0"), {"number": number})
            elif not connection.execute(text(_RAISE), {"number": number}).rowcount:
                connection.execute(text("INSERT INTO sqlite_sequence VALUES ('jobs', :number)"), {"number": number})

    # --- nodes, events, settings ---

    def set_node(self, name: str, state: str, reason: str, now_s: float, by: str, address: str = "") -> None:
        """Store the state of a node, and add an event and an audit entry for the change."""
        row = {"name": name, "state": state, "reason": mappers.plain(reason), "since_s": now_s, "by": by}
        with self._database.write_claimed() as connection:
            connection.execute(self._database.upsert(nodes, ("name",), ("state", "reason", "since_s", "by")), row)
            add_acts(connection, [AuditRecord(0, now_s, by, address, f"node {state}", name, {"reason": reason})])

    def node_states(self) -> dict[str, NodeState]:
        """Return the stored state of each node, as a dictionary by the node's name."""
        with self._database.read() as connection:
            rows = connection.execute(select(nodes).order_by(nodes.c.name)).mappings()
            return {row["name"]: NodeState(**row) for row in rows}

    def append(self, kind: str, text: str, now_s: float, job_id: str | None = None, **fields: Any) -> int:
        """Add an event, and return its number, which is higher than that of every earlier event.

        ``fields`` are plain JSON.
        """
        with self._database.write_claimed() as connection:
            return add_event(connection, kind, text, now_s, job_id, fields)

    def events(
        self, after: int = 0, limit: int = 100, *, only: RecordFilter = EVERYTHING, latest: bool = False
    ) -> NumberedPage[EventRecord]:
        """Return the first (or the last) ``limit`` events after event number ``after``, oldest first."""
        with self._database.read() as connection:
            return page_of_events(connection, after, limit, only, latest=latest)

    def last_event(self) -> int:
        """Return the number of the newest event; 0 if there is no event."""
        with self._database.read() as connection:
            return int(connection.scalar(select(func.max(events.c.number))) or 0)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a setting by its key; ``default`` if no value was ever stored."""
        with self._database.read() as connection:
            value = connection.scalar(select(settings.c.value).where(settings.c.key == key))
        return default if value is None else json.loads(value)

    def put(self, key: str, value: Any) -> None:
        """Store a setting: a key with any value that JSON can hold."""
        with self._database.write_claimed() as connection:
            put_setting(self._database, connection, key, value)

    def govern(self, key: str, value: Any, whats: Sequence[AuditRecord]) -> None:
        """Store a setting, and audit entries and events that say who changed it, in one transaction."""
        with self._database.write_claimed() as connection:
            put_setting(self._database, connection, key, value)
            add_acts(connection, whats)

    def note(self, rows: Sequence[AuditRecord]) -> None:
        """Add entries to the audit. The database numbers them."""
        with self._database.write_claimed() as connection:
            add_audit(connection, rows)

    def audit(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        only: RecordFilter = EVERYTHING,
        clocks: bool = False,
        latest: bool = False,
    ) -> NumberedPage[AuditRecord]:
        """Return the first (or the last) ``limit`` audit entries after entry number ``after``, oldest first.

        Entries about GPU clocks are left out, unless ``clocks`` is True.
        """
        with self._database.read() as connection:
            return page_of_audit(connection, after, limit, only, clocks=clocks, latest=latest)

    def _all(self, query: Select[Any]) -> list[StoredJob]:
        with self._database.read() as connection:
            return [mappers.job_of(row) for row in connection.execute(query).mappings()]
