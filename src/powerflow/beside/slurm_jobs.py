"""Tell a controller which of Slurm's jobs hold GPUs, and how others have ended."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from powerflow.api.external import ExternalEnd, ExternalJob, ExternalLook
from powerflow.api.records import JobState
from powerflow.errors import InputError
from powerflow.watch.owners import OwnersLook, WatchedJob

#: A job whose comment has this word is left alone: ``#SBATCH --comment=powerflow:off``.
_OPT_OUT = re.compile(r"(?:^|[\s,;])powerflow:\s*off(?:$|[\s,;])", re.IGNORECASE)
#: Slurm's states of jobs that did what they should, and of jobs that somebody ended.
_WELL, _CANCELLED = frozenset({"COMPLETED"}), frozenset({"CANCELLED", "PREEMPTED", "REVOKED", "DEADLINE"})
#: Until Slurm 23.02, this word hides how a job ends until its Epilog has run.
_ENDING = "COMPLETING"
_FIELDS: Mapping[str, Callable[[WatchedJob], str]] = {
    "partition": lambda job: job.partition,
    "account": lambda job: job.account,
    "user": lambda job: job.user,
}


class Protected(NamedTuple):
    """Jobs that must run as fast as they can: those whose partition, account or user (``field``) has this value."""

    field: str
    value: str


def read_protected(text: str) -> Protected:
    """Read ``partition=urgent``.

    Raises:
        InputError: It does not name a field and its value.
    """
    field, equals, value = text.partition("=")
    if not equals or not value or field not in _FIELDS:
        names = ", ".join(_FIELDS)
        raise InputError(f"{text!r} does not say which jobs", where="--protect", fix=f"write NAME=VALUE; NAME: {names}")
    return Protected(field, value)


@dataclass(frozen=True, slots=True)
class SlurmRules:
    """What a site wants for Slurm's jobs.

    Attributes:
        protected: Jobs that must run as fast as they can.
    """

    protected: Collection[Protected] = ()

    def protects(self, job: WatchedJob) -> bool:
        """Return True if a job must run as fast as it can."""
        return any(_FIELDS[field](job) == value for field, value in self.protected)


def external_look(look: OwnersLook, rules: SlurmRules) -> ExternalLook:
    """Return what Slurm says as a look for the controller.

    The clocks of a job that shares a GPU with another job, or may have to (shards, MPS), cannot be set, because a
    GPU has one clock.
    """
    gpus: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    holders: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in look.holdings:
        if each.end_s is None:
            gpus[each.job][each.gpu.node].add(each.gpu.number)
            holders[each.gpu].add(each.job)
    sharing = {job for jobs in holders.values() if len(jobs) > 1 for job in jobs}
    sharing |= {each.job for each in look.holdings if each.shared and each.end_s is None}
    running = {
        key: _running(look.jobs[key], of_job, rules, shares=key in sharing)
        for key, of_job in gpus.items()
        if key in look.jobs
    }
    over = {key: job for key, job in look.jobs.items() if job.end_s is not None and key not in running}
    ending = frozenset(key for key, job in over.items() if job.state == _ENDING)
    ended = {key: _end(job, look.time_s) for key, job in over.items() if key not in ending}
    notes = list(look.notes)
    if look.hidden or not look.complete:
        hidden = f"{len(look.hidden)} GPUs of jobs" if look.hidden else "jobs"
        notes.append(
            f"Slurm hides {hidden} from this user (PrivateData): no clock is set there, and nothing is metered"
        )
    return ExternalLook(running, ended, tuple(notes), ending | set(look.unplaced) - running.keys(), look.requeued_s)


def _running(job: WatchedJob, gpus: Mapping[str, set[int]], rules: SlurmRules, *, shares: bool) -> ExternalJob:
    return ExternalJob(
        key=job.key,
        id=job.id,
        name=job.name,
        user=job.user,
        project=job.account,
        submitted_s=job.start_s if job.submitted_s is None else min(job.submitted_s, job.start_s),
        started_s=job.start_s,
        gpus={host: tuple(sorted(numbers)) for host, numbers in sorted(gpus.items())},
        why_not="it shares GPUs with other jobs, or may have to" if shares else "",
        protected=rules.protects(job),
        untouched=_OPT_OUT.search(job.comment) is not None,
    )


def _end(job: WatchedJob, now_s: float) -> ExternalEnd:
    state = JobState.FAILED
    if job.state in _WELL:
        state = JobState.COMPLETED
    elif job.state in _CANCELLED:
        state = JobState.CANCELLED
    text = "completed" if state is JobState.COMPLETED else f"Slurm: {job.state}"
    return ExternalEnd(state, text, now_s if job.end_s is None else job.end_s)
