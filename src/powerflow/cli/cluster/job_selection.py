"""Select jobs by their numbers, or by name, user, project, state or array, as ``scancel`` does."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from powerflow.api import operations as ops
from powerflow.api.records import JobRecord, JobState
from powerflow.cli.cluster.client import ControllerClient, job_number
from powerflow.cli.cluster.controller_command import job_numbers
from powerflow.cli.cluster.options_instead import Command, options_instead_of
from powerflow.errors import InputError

_ACTIVE = [state for state in JobState if not state.ended]


@dataclass(frozen=True, slots=True)
class Selection:
    """Jobs that a command is to change.

    Attributes:
        jobs: Numbers of jobs.
        every: True for all jobs of the caller that have not ended.
        name, user, project, states, array: Only jobs that have not ended and have all of these. ``name`` may have the
            wildcards ``*`` and ``?``. Without ``user``: jobs of the caller.
    """

    jobs: Sequence[str]
    every: bool
    name: str | None
    user: str | None
    project: str | None
    states: Sequence[JobState]
    array: str | None

    def numbers(self, controller: ControllerClient) -> list[str]:
        """Return the numbers of the jobs, the oldest first.

        Raises:
            InputError: Nothing is selected, or a number is not the number of a job.
        """
        for number in (*self.jobs, *([self.array] if self.array is not None else [])):
            job_number(number)  # no job is changed if one of the numbers is not a number
        filters = (self.name, self.user, self.project, self.array, *self.states)
        if not (self.every or any(value is not None for value in filters)):
            if not self.jobs:
                raise InputError("no job is named", fix="give numbers of jobs, --name, --state or --all")
            return list(self.jobs)
        if self.jobs:
            raise InputError("numbers and filters cannot be combined", fix="give numbers, or --name, --state or --all")
        user = self.user or controller.ask(ops.ME).user
        found = controller.jobs(states=self.states or _ACTIVE, user=user, project=self.project)
        return [job.id for job in reversed(found) if self._has(job)]

    def _has(self, job: JobRecord) -> bool:
        return self._is_named(job) and self.array in (None, job.array_id)

    def _is_named(self, job: JobRecord) -> bool:
        """Return True if a job has the name; the name of an array stands for all its tasks."""
        if self.name is None:
            return True
        pattern = self.name.replace("[", "[[]")  # a task's number stands in brackets
        names = {job.name, job.name.rpartition("[")[0] if job.array_id is not None else job.name}
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


_OPTIONS = {
    "jobs": Annotated[
        list[str] | None, typer.Argument(metavar="[JOB…]", help="Numbers of jobs.", autocompletion=job_numbers)
    ],
    "every": Annotated[bool, typer.Option("--all", help="All your jobs that have not ended.")],
    "name": Annotated[str | None, typer.Option(help="Jobs with this name; * and ? stand for any characters.")],
    "user": Annotated[str | None, typer.Option("--user", "-u", help="Jobs of this user. Default: your own.")],
    "project": Annotated[str | None, typer.Option(help="Jobs of this project.")],
    "states": Annotated[
        list[JobState] | None, typer.Option("--state", "-t", help="Jobs in this state; may be repeated.")
    ],
    "array": Annotated[str | None, typer.Option(metavar="JOB", help="All jobs of this array.")],
}


def selects_jobs(command: Command) -> Command:
    """Decorate a command: pass it a `Selection` as ``selection``, and add the options that select jobs."""
    return options_instead_of("selection", _OPTIONS, _selection)(command)


def _selection(jobs: Sequence[str] | None, states: Sequence[JobState] | None, **filters: Any) -> Selection:
    return Selection(jobs=jobs or [], states=states or [], **filters)
