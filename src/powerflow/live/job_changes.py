"""Carry out requests that change jobs: cancel, hold, release, and new values for keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from powerflow.api.bulk_answer import JobsChanged, NotChanged
from powerflow.api.dependency import read_dependency
from powerflow.api.governance import audited
from powerflow.api.job_change import JobChange, changed, flat
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Forbidden, JobRecord, JobState, NotFound, Refused, Role
from powerflow.live.commands import ApiCommand, JobChanged, JobEnded, JobHeld, JobReleased
from powerflow.live.controller import Controller
from powerflow.live.job_checks import JobChecks, refuse_external
from powerflow.live.records import Records
from powerflow.store.models import StoredJob
from powerflow.units import duration

#: State of a job after each change, and the command for the loop.
_CHANGES: dict[str, tuple[JobState, Callable[[str], ApiCommand]]] = {
    "cancelled": (JobState.CANCELLED, JobEnded),
    "held": (JobState.HELD, JobHeld),
    "released": (JobState.QUEUED, JobReleased),
}


class JobChanges:
    """Change jobs of one cluster. Any thread may use it."""

    def __init__(self, controller: Controller, records: Records, checks: JobChecks) -> None:
        self._controller, self._store, self._records, self._checks = controller, controller.store, records, checks

    def one(self, job_id: str, change: str, caller: Caller) -> JobRecord:
        """Change the state of one job: "cancelled", "held" or "released".

        Raises:
            Refused: The caller or the job's state does not allow it.
            NotFound: There is no such job.
        """
        (found,) = self._carry_out([job_id], change, caller)
        if isinstance(found, Refused | NotFound):
            raise found
        return self._records.job(found)

    def several(self, job_ids: Sequence[str], change: str, caller: Caller) -> JobsChanged:
        """Change the state of all jobs that can be changed, as `one` does, in one transaction."""
        found = dict(zip(job_ids, self._carry_out(job_ids, change, caller), strict=True))
        return JobsChanged(
            [self._records.job(job) for job in found.values() if isinstance(job, StoredJob)],
            [
                NotChanged(job_id, str(error), error.exit_code)
                for job_id, error in found.items()
                if isinstance(error, Refused | NotFound)
            ],
        )

    def update(self, job_id: str, change: JobChange, caller: Caller) -> JobRecord:
        """Give keys of a job other values.

        Raises:
            Refused: The caller, the job's state, or the cluster does not allow it.
            NotFound: There is no such job.
            InputError: The job with this change is not valid.
        """
        job, now_s = self._own(job_id, caller), self._controller.clock()
        spec = changed(job.spec, change)
        self._checks.check(spec, job.user)
        if change.dependency is not None:
            self._check_waits(job, spec)
        if change.time_limit is not None and (ran_s := self._records.job(job).run_s or 0.0) >= change.time_limit:
            raise Refused(
                f"job {job_id} has already run {duration(ran_s)}, and would end at once",
                fix="give a longer time limit, or cancel it",
            )
        asked = audited(caller, now_s, "job updated", f"job {job_id}", {"owner": job.user, **flat(change)})
        states = (JobState.QUEUED, JobState.HELD, *((JobState.RUNNING,) if change.may_run else ()))
        job = self._store.respecify(job_id, spec, now_s, states, asked)
        self._controller.tell(JobChanged(job_id))
        return replace(self._records.job(job), notes=self._checks.notes(spec))

    def _check_waits(self, job: StoredJob, spec: JobSpec) -> None:
        """Raise an error if a job has run, or would wait for itself: then it can never wait as it is asked to."""
        if job.started_s is not None:
            raise Refused(
                f"job {job.id} has run before, so it waits for no other job", fix="hold it until it may run again"
            )
        path: dict[str, str] = {}  # from a job to one that waits for it
        coming = [(each, job.id) for each in self._waited_for(spec)]
        while coming:
            each, by = coming.pop()
            if each == job.id:
                circle = [by]
                while circle[-1] != job.id:
                    circle.append(path[circle[-1]])
                words = ", which waits for ".join(f"job {number}" for number in [*circle[::-1], job.id])
                raise Refused(f"it would wait for itself: {words}", fix="leave one of them out of the dependency")
            if each not in path:
                path[each] = by
                with contextlib.suppress(NotFound):
                    coming += [(other, each) for other in self._waited_for(self._store.job(each).spec)]

    def _waited_for(self, spec: JobSpec) -> list[str]:
        """Return the jobs that a job waits for, with all tasks of arrays."""
        needs = read_dependency(spec.dependency) if spec.dependency else ()
        return [each for need in needs for each in (need.job_id, *self._store.array(need.job_id))]

    def _carry_out(self, job_ids: Sequence[str], change: str, caller: Caller) -> list[StoredJob | Refused | NotFound]:
        """Change the state of jobs in the store, and tell the loop; return the job or the error for each id."""
        to, command = _CHANGES[change]
        now_s, wishes = self._controller.clock(), {}
        found: dict[str, StoredJob | Refused | NotFound] = {}
        for job_id in job_ids:
            try:
                job = self._own(job_id, caller)
                if change == "released" and job.state is not JobState.HELD:
                    raise Refused(f"job {job_id} is {job.state.value}; only a held job can be released")
            except (Refused, NotFound) as error:
                found[job_id] = error
            else:
                wishes[job_id] = audited(caller, now_s, f"job {change}", f"job {job_id}", {"owner": job.user})
        holding = set(self._controller.gangs.holding().values())
        moved = self._store.move_all(list(wishes.items()), to, now_s, holding)
        for job_id, result in zip(wishes, moved, strict=True):
            found[job_id] = result
            if isinstance(result, StoredJob):
                self._controller.tell(command(job_id))
        return [found[job_id] for job_id in job_ids]

    def _own(self, job_id: str, caller: Caller) -> StoredJob:
        job = self._store.job(job_id)
        if caller.role is not Role.OPERATOR and caller.user != job.user:
            raise Forbidden(f"job {job_id} belongs to {job.user}", fix="only its owner or an operator may change it")
        refuse_external(job)
        return job
