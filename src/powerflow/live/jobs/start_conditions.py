"""Decide when a job may start that waits for other jobs: by its dependency, or by the limit of its array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from powerflow.api.dependency import Condition, Need
from powerflow.api.job_array import read_array
from powerflow.api.records import JobState, NotFound
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.store.store import Store

_ENDS_WELL = {
    Condition.COMPLETED: (JobState.COMPLETED,),
    Condition.FAILED: (JobState.FAILED, JobState.CANCELLED),
    Condition.ENDED: (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED),
    Condition.STARTED: (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED),
}
_TO = {
    Condition.STARTED: "start",
    Condition.ENDED: "end",
    Condition.COMPLETED: "complete",
    Condition.FAILED: "fail",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a job may start now.

    Attributes:
        waits: What the job waits for, in words; "" if it may start.
        never: Why the job can never start, in words; "" if it can.
    """

    waits: str = ""
    never: str = ""


class StartConditions:
    """Decide which jobs of one cluster may start. Only the controller's loop may use it.

    Args:
        store: Has the jobs that have ended.
        jobs: The active jobs.
        completing: Jobs that have their final state, and of which processes may still run: they have not ended.
    """

    def __init__(self, store: Store, jobs: Mapping[str, ActiveJob], completing: Mapping[str, ActiveJob]) -> None:
        self._store, self._jobs, self._completing = store, jobs, completing
        self._ended: dict[str, JobState | None] = {}  # final states of jobs that others wait for; None: no such job
        self._arrays: dict[str, tuple[str, ...]] = {}
        self._running: Counter[str] = Counter()  # jobs of each array that the scheduler plans for

    def begin(self) -> None:
        """Count the tasks of each array that run. Call this before a series of `verdict` and `admitted`."""
        self._running = Counter(job.array_id for job in self._jobs.values() if job.array_id is not None and job.known)

    def admitted(self, job: ActiveJob) -> None:
        """Record that the scheduler plans for a job from now on."""
        if job.array_id is not None:
            self._running[job.array_id] += 1

    def verdict(self, job: ActiveJob) -> Verdict:
        """Return whether a job may start now. A job that has started before may always start again.

        Raises:
            StoreError: The store cannot be read.
        """
        if job.started_s is not None:
            return Verdict()
        for need in job.needs:
            others = self._jobs_of(need.job_id)
            met = {other: self._met(need.condition, other) for other in others}
            if waits := [other for other in others if met[other] is None]:
                more = f" and {len(waits) - 1} more of its array" if len(waits) > 1 else ""
                to = "end" if need.condition is Condition.FAILED and len(others) > 1 else _TO[need.condition]
                return Verdict(waits=f"waits for job {waits[0]}{more} to {to}")
            failed = [other for other in others if not met[other]]
            # an array has failed if one of its tasks has
            if failed and (need.condition is not Condition.FAILED or len(failed) == len(others)):
                return Verdict(never=self._why_never(need, failed[0]))
        most = _at_once(job.spec.array) if job.spec.array else None
        if most is not None and job.array_id is not None and self._running[job.array_id] >= most:
            return Verdict(waits=f"waits for other jobs of its array: at most {most} may run at once")
        return Verdict()

    def _jobs_of(self, number: str) -> tuple[str, ...]:
        """Return all jobs of an array, if the number is that of an array; otherwise the job itself."""
        if number not in self._arrays:
            self._arrays[number] = tuple(self._store.array(number)) or (number,)
        return self._arrays[number]

    def _met(self, condition: Condition, job_id: str) -> bool | None:
        """Return True if a job has met a condition, False if it never will, None if it may."""
        active = self._jobs.get(job_id)
        if active is not None:
            return True if condition is Condition.STARTED and active.started_s is not None else None
        if job_id in self._completing:
            return True if condition is Condition.STARTED else None
        if job_id not in self._ended:
            try:
                state = self._store.job(job_id).state
            except NotFound:
                state = None
            if state is not None and not state.ended:
                return None  # the loop has not heard of it yet
            self._ended[job_id] = state
        return self._ended[job_id] in _ENDS_WELL[condition]

    def _why_never(self, need: Need, job_id: str) -> str:
        state = self._ended.get(job_id)
        what = f"job {job_id} {'was ' if state is JobState.CANCELLED else ''}{state}" if state else f"no job {job_id}"
        return f"can never start: it waits for job {job_id} to {_TO[need.condition]}, but {what}"


@cache
def _at_once(array: str) -> int | None:
    return read_array(array).at_once
