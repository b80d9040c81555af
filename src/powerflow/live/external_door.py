"""Store the jobs that another scheduler runs on this cluster, and tell the controller's loop of them.

Such an *external* job is a job of the cluster like any other: it is metered, charged and explained, and the scheduler
plans for it under the same budgets, caps and stages. But its GPUs are given. PowerFlow never starts, stops or moves it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from powerflow.api.external import ExternalEnd, ExternalJob, ExternalLook
from powerflow.api.governance import AuditRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState, Refused
from powerflow.live.commands import ApiCommand, ExternalEnded, ExternalSeen, JobChanged
from powerflow.live.notices import Notices
from powerflow.store.models import StoredJob
from powerflow.store.store import Store

#: Characters that a project's name does not have.
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
#: Characters that a job's name does not have: see `powerflow.api.job_spec.JOB_NAME`.
_NOT_SHOWN = re.compile(r"[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
#: Longest name of a job or project.
_MOST_CHARS = 128
#: Owner of a job whose owner is not known.
UNKNOWN = "unknown"
#: Seconds for which a job is missing before it counts as ended, if its scheduler does not say how it ended. Slurm tells
#: the ends of the last five minutes (``MinJobAge``), so such a job may as well be hidden for a while.
MISSING_S = 600.0
#: How often one job may be missing for so long, and come back.
_MOST_AGAIN = 100
#: Moments of one submission differ by less than this: Slurm cuts off fractions of a second.
_SAME_S = 1.0


class ExternalDoor:
    """Take what another scheduler says. Only one thread may use it.

    Args:
        store: The cluster's store.
        tell: Gives the controller's loop a command.
        notices: Messages for operators.
        scheduler: Name of the other scheduler, in words.
        max_slowdown: Share by which a step of these jobs may become slower.
    """

    def __init__(
        self, store: Store, tell: Callable[[ApiCommand], None], notices: Notices, scheduler: str, max_slowdown: float
    ) -> None:
        self._store, self._tell, self._notices = store, tell, notices
        self._scheduler, self._max_slowdown = scheduler, max_slowdown
        self._missing_s: dict[str, float] = {}  # by key: since when it is missing
        self._gpus: dict[str, frozenset[tuple[str, int]]] = {}  # by key: those that it had at the last look
        self._missing_words = f"ended: {scheduler} does not list it any more, and does not say how it ended"

    def take(self, look: ExternalLook, now_s: float) -> None:
        """Take in all that the other scheduler says at one moment (Unix seconds).

        Raises:
            StoreError: The store cannot be used. The next look makes up for it.
        """
        active = {job.spec.run: job for job in self._store.active() if job.spec.external}
        gone = active.keys() - look.jobs.keys() - set(look.running)
        for key in gone:  # first: others may have their GPUs by now
            end = look.ended.get(key) or self._requeued(active[key], look) or self._missed(key, look, now_s)
            if end is not None:
                self._tell(ExternalEnded(active[key].id, end))
        self._missing_s = {key: since_s for key, since_s in self._missing_s.items() if key in gone}
        self._gpus = {key: self._gpus[key] for key in self._gpus.keys() & self._missing_s.keys()}
        self._gpus |= {key: _addresses(job) for key, job in look.jobs.items()}
        for key, job in look.jobs.items():
            spec = spec_of(job, self._max_slowdown)
            known = active.get(key)
            if known is None:
                known = self._enter(job, spec)
            elif known.spec != spec:
                self._change(known, spec, now_s)
            if not known.state.ended:
                self._tell(ExternalSeen(known.id, job))
        self._notices.show("external", "; ".join(look.notes))

    def _requeued(self, job: StoredJob, look: ExternalLook) -> ExternalEnd | None:
        """Return the end of a run whose job was submitted anew after it; None if it was not."""
        again_s = look.requeued_s.get(job.spec.run.partition("@")[0], -math.inf)
        if again_s <= job.submitted_s + _SAME_S:
            return None
        return ExternalEnd(JobState.CANCELLED, f"{self._scheduler}: REQUEUED", again_s)

    def _enter(self, job: ExternalJob, spec: JobSpec) -> StoredJob:
        """Store a job that is not active, and return it.

        A job that counted as ended only because it was missing, and is there again, gets a new record.
        """
        for again in range(_MOST_AGAIN):
            key = f"{job.key}#{again}" if again else job.key
            with suppress(Refused):  # what the site wants of it has changed since it ended
                known, _ = self._store.submit(spec, job.user or UNKNOWN, job.submitted_s, key=key)
                if not (known.state.ended and known.exit == self._missing_words):
                    return known
        return known

    def _missed(self, key: str, look: ExternalLook, now_s: float) -> ExternalEnd | None:
        """Return the end of a job that is missing, once it was missing for long enough, or others have its GPUs."""
        mine = self._gpus.get(key, frozenset())
        others = any(mine & _addresses(job) for job in look.jobs.values())
        if now_s - self._missing_s.setdefault(key, now_s) < MISSING_S and not others:
            return None
        return ExternalEnd(JobState.COMPLETED, self._missing_words, self._missing_s[key])

    def _change(self, job: StoredJob, spec: JobSpec, now_s: float) -> None:
        """Give a job another specification, because its comment, or what the site wants, has changed."""
        most = spec.energy.max_slowdown
        asked = AuditRecord(0, now_s, self._scheduler, "", "job updated", f"job {job.id}", {"max_slowdown": most})
        with suppress(Refused):  # it has ended a moment ago
            self._store.respecify(job.id, spec, now_s, (JobState.QUEUED, JobState.RUNNING), asked)
            self._tell(JobChanged(job.id))

    def unheard(self, why: str) -> None:
        """Tell operators that the other scheduler does not answer. Its jobs stay as they were."""
        self._notices.show("external", f"{self._scheduler} does not answer; its jobs count as unchanged: {why}")


def _addresses(job: ExternalJob) -> frozenset[tuple[str, int]]:
    """Return the GPUs of a job, each with its host."""
    return frozenset((host, number) for host, numbers in job.gpus.items() for number in numbers)


def spec_of(job: ExternalJob, max_slowdown: float) -> JobSpec:
    """Return a job of another scheduler as a specification. Its ``run`` line is the job's key, which nobody runs."""
    count = sum(len(numbers) for numbers in job.gpus.values())
    plain: dict[str, Any] = {
        "run": job.key,
        "name": _NOT_SHOWN.sub("?", f"{job.id} {job.name}")[:_MOST_CHARS].strip(),
        "gpus": {"least": count, "most": count},
        "rescale": "external",
        "project": _NOT_A_NAME.sub("_", job.project).lstrip("._-")[:_MOST_CHARS],
        "priority": "protected" if job.protected else "normal",
        "energy": {"max_slowdown": 0.0 if job.untouched else None if job.protected else max_slowdown},
        "retries": 0,
    }
    return JobSpec.model_validate(plain, context={"stored": True})
