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

_LISTED = "powerflow queue lists active jobs"
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
            InputError: Nothing is selected, a number is not the number of a job, there is no such array, or no job has
                all of these.
        """
        for number in self.jobs:
            job_number(number)  # no job is changed if one of the numbers is not a number
        filters = (self.name, self.user, self.project, self.array, *self.states)
        if not (self.every or any(value is not None for value in filters)):
            if not self.jobs:
                raise InputError("no job is named", fix="give numbers of jobs, --name, --state or --all")
            return list(self.jobs)
        if self.jobs:
            raise InputError("numbers and filters cannot be combined", fix="give numbers, or --name, --state or --all")
        array = None if self.array is None else controller.number_of_array(self.array)
        user = self.user or controller.ask(ops.ME).user
        found = controller.jobs(states=self.states or _ACTIVE, user=user, project=self.project)
        chosen = [job.id for job in reversed(found) if self._is_named(job) and array in (None, job.array_id)]
        if array is not None and not chosen:
            _check_array(controller, array, user)
        if not chosen:
            raise InputError(f"no active job of {user} matches", fix=_LISTED, exit_code=3)
        return chosen

    def _is_named(self, job: JobRecord) -> bool:
        """Return True if a job has the name; the name of an array stands for all its tasks."""
        if self.name is None:
            return True
        pattern = self.name.replace("[", "[[]")  # a task's number stands in brackets
        names = {job.name, job.name.rpartition("[")[0] if job.array_id is not None else job.name}
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _check_array(controller: ControllerClient, array: str, user: str) -> None:
    """Check that a user has an array, although no job of it was selected.

    Raises:
        InputError: There is no such job, it is not an array, or the array belongs to another user.
    """
    job = controller.ask(ops.JOB, job_id=array).record
    if job.array_id is None:
        raise InputError(f"job {array} is not an array", where="--array", fix=f"name it without --array: {array}")
    if job.array_id != array:
        what = f"job {array} is a task of array {job.array_id}"
        raise InputError(what, where="--array", fix=f"give --array {job.array_id} for all tasks")
    if job.user != user:
        what = f"array {array} belongs to {job.user}"
        raise InputError(what, where="--array", fix=f"--user {job.user} selects it", exit_code=4)


_OPTIONS = {
    "jobs": Annotated[
        list[str] | None, typer.Argument(metavar="[JOB…]", help="Numbers or names of jobs.", autocompletion=job_numbers)
    ],
    "every": Annotated[bool, typer.Option("--all", help="All your jobs that have not ended.")],
    "name": Annotated[str | None, typer.Option(help="Jobs with this name; * and ? stand for any characters.")],
    "user": Annotated[str | None, typer.Option("--user", "-u", help="Jobs of this user. Default: your own.")],
    "project": Annotated[str | None, typer.Option(help="Jobs of this project.")],
    "states": Annotated[
        list[JobState] | None, typer.Option("--state", "-t", help="Jobs in this state; may be repeated.")
    ],
    "array": Annotated[str | None, typer.Option(metavar="ARRAY", help="Jobs of this array: its number or name.")],
}


def selects_jobs(command: Command) -> Command:
    """Decorate a command: pass it a `Selection` as ``selection``, and add the options that select jobs."""
    return options_instead_of("selection", _OPTIONS, _selection)(command)


def _selection(jobs: Sequence[str] | None, states: Sequence[JobState] | None, **filters: Any) -> Selection:
    return Selection(jobs=jobs or [], states=states or [], **filters)
