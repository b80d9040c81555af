"""Store the jobs that another scheduler runs on this cluster, and tell the controller's loop of them.

Such an *external* job is a job of the cluster like any other: it is metered, charged and explained, and the scheduler
plans for it under the same budgets, caps and stages. But its GPUs are given. PowerFlow never starts, stops or moves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from powerflow.api.external import ExternalEnd, ExternalJob, ExternalLook
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState, Refused
from powerflow.live.commands import ApiCommand, ExternalEnded, ExternalSeen
from powerflow.live.notices import Notices
from powerflow.store.store import Store

#: Characters that a project's name does not have.
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
#: Characters that a job's name does not have: see `powerflow.api.job_spec.JOB_NAME`.
_NOT_SHOWN = re.compile(r"[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
#: Longest name of a job or project.
_MOST_CHARS = 128
#: Looks in a row in which a job is missing before it counts as ended, if its scheduler does not say how it ended.
_MISSING = 2


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
        self._missing: dict[str, int] = {}
        self._told: dict[str, Mapping[str, tuple[int, ...]]] = {}  # by key: the GPUs of which the loop has heard

    def take(self, look: ExternalLook, now_s: float) -> None:
        """Take in all that the other scheduler says at one moment (Unix seconds).

        Raises:
            StoreError: The store cannot be used. The next look makes up for it.
        """
        active = {job.spec.run: job.id for job in self._store.active() if job.spec.external}
        for key, job in look.jobs.items():
            self._missing.pop(key, None)
            if self._told.get(key) != job.gpus or key not in active:
                self._enter(job)
        for key, job_id in active.items():
            if key in look.jobs:
                continue
            end = look.ended.get(key)
            if end is None:
                self._missing[key] = self._missing.get(key, 0) + 1
                if self._missing[key] < _MISSING:
                    continue
                text = f"ended: {self._scheduler} does not list it any more, and does not say how it ended"
                end = ExternalEnd(JobState.COMPLETED, text, now_s)
            self._tell(ExternalEnded(job_id, end))
            self._missing.pop(key, None)
            self._told.pop(key, None)
        self._notices.show("external", "; ".join(look.notes))

    def unheard(self, why: str) -> None:
        """Tell operators that the other scheduler does not answer. Its jobs stay as they were."""
        self._notices.show("external", f"{self._scheduler} does not answer; its jobs count as unchanged: {why}")

    def _enter(self, job: ExternalJob) -> None:
        spec = spec_of(job, self._max_slowdown)
        try:
            stored, _ = self._store.submit(spec, job.user or "unknown", job.submitted_s, key=job.key)
        except Refused:  # the site now wants something else of such jobs: this one stays as it was
            return
        self._told[job.key] = job.gpus
        if not stored.state.ended:
            self._tell(ExternalSeen(stored.id, job.gpus, job.started_s))


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
