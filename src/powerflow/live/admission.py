"""Tell the scheduler about jobs when they may start, and end jobs whose time limit is reached."""

from __future__ import annotations

import contextlib

from powerflow.api.records import JobState, Refused
from powerflow.live.context import LoopContext
from powerflow.live.gang_events import GangEvents
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.start_conditions import StartConditions
from powerflow.units import duration


class Admission:
    """Watch the conditions and time limits of all jobs of one cluster. Only the controller's loop may use it."""

    def __init__(self, context: LoopContext, gang_events: GangEvents) -> None:
        self._store, self._table, self._gangs = context.store, context.table, context.gangs
        self._gang_events = gang_events
        self._conditions = StartConditions(context.store, context.table.jobs, context.table.completing)

    def admit(self, now_s: float) -> None:
        """Tell the scheduler about the jobs that may start now; cancel those that never can.

        Raises:
            StoreError: The store cannot be used. The next call continues.
        """
        self._conditions.begin()
        for job in list(self._table.jobs.values()):
            if job.known or job.held or job.spec.external or job.eligible_s > now_s:
                continue
            verdict = self._conditions.verdict(job)
            if verdict.never:
                self._end(job, JobState.CANCELLED, verdict.never, now_s)
            elif verdict.waits:
                self._table.wait(job, verdict.waits)
            else:
                self._table.introduce(job)
                self._conditions.admitted(job)

    def expire(self, now_s: float) -> None:
        """End the jobs that have run for as long as their time limit.

        Raises:
            StoreError: The store cannot be used. The next call continues.
        """
        for job in list(self._table.jobs.values()):
            most_s = job.spec.time_limit
            if most_s is not None and job.run_s >= most_s:
                self._end(job, JobState.FAILED, f"reached its time limit of {duration(most_s)}", now_s)

    def _end(self, job: ActiveJob, state: JobState, text: str, now_s: float) -> None:
        with contextlib.suppress(Refused):  # it was cancelled in the store a moment ago
            processes = job.id in self._gangs.holding().values() or None
            self._store.move(job.id, state, now_s, exit=text, reason=text, text=text, processes=processes)
        self._gang_events.stop(job)
