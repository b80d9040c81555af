"""``powerflow submit``: submit a job from a file, from flags, or from both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerflow.api import operations as ops
from powerflow.api.job_array import read_array
from powerflow.api.merge import merged
from powerflow.api.output_path import USUAL, USUAL_TASK
from powerflow.api.records import JobState
from powerflow.cli import settings
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks, note, say
from powerflow.cli.cluster.job_flags import takes_job_flags, variables, with_numbers
from powerflow.cli.cluster.script_hints import hints, unwritable
from powerflow.cli.cluster.shell_environment import of_shell
from powerflow.cli.main import INTERRUPTED, UNREACHABLE
from powerflow.cli.options import Json
from powerflow.cli.sanitize import line
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.api.job_spec import JobSpec
    from powerflow.api.records import JobRecord

#: Seconds for which one request waits for an event of the job.
_WAIT_S = 20.0


@asks
@takes_job_flags
def submit(
    controller: ControllerClient,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[JOB.YAML] [-- COMMAND…]",
            help="File that describes the job (docs/job.md); - reads standard input. Or give a command after --.",
        ),
    ] = None,
    *,
    flags: dict[str, Any],
    directory: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder in which the command runs. Default: `directory` of the file, or else the folder you are in.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="Environment variable of the job; may be repeated."),
    ] = None,
    no_env: Annotated[
        bool,
        typer.Option("--no-env", help="Pass no variables of this shell, only those of --env and the file."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job ends; exit with 1 if it fails.")] = False,
    json: Json = False,
) -> None:
    """Submit a job. It runs as the command would run here: with this folder and this shell's variables.

    Options replace values of the file. Even after a lost connection, the job is submitted only once.
    """
    spec = _spec(file, with_numbers(flags, controller), directory, variables(env or []))
    spec = spec if no_env else _with_shell(spec)
    record = controller.submit(spec)
    with _said_to_go_on(tasks := _tasks(record, spec)):
        lost = unwritable(spec)
        for words in (*record.notes, *hints(spec, {**spec.shell_env, **spec.env}), *lost):
            note(words)
        if not (wait and json):
            array = {"id": record.id, "tasks": tasks} if spec.array else None
            accepted = _accepted(record, tasks, "" if lost else record.output)
            say("job", {"job": record, "array": array}, accepted, json)
        if not wait:
            return
        sys.stdout.flush()
        lasting = controller.following(note)
        ended = [_await(lasting, task.id) for task in tasks]
    for done in ended:
        say("job", {"job": done}, f"job {done.id} {line(done.exit or done.state)}", json)
    if any(done.state is not JobState.COMPLETED for done in ended):
        raise typer.Exit(1)


def _spec(file: Path | None, flags: dict[str, Any], directory: str | None, env: dict[str, str]) -> JobSpec:
    """Return the job that a file and flags describe together."""
    from powerflow.api.job_file import read_spec, spec_from, spec_of_text

    if file is None:
        if "run" not in flags:
            raise InputError("nothing to run", fix="give a job.yaml, or a command: powerflow submit -- python train.py")
        values: dict[str, Any] = {}
    elif str(file) == "-":
        values = spec_of_text(sys.stdin.buffer.read()).model_dump(by_alias=True, exclude_unset=True)
    elif file.suffix in (".py", ".sh", ".sbatch", ".slurm") or " " in str(file):
        raise InputError("is a command, not the description of a job", where=str(file), fix=_instead(file))
    else:
        values = read_spec(file).model_dump(by_alias=True, exclude_unset=True)
    values.setdefault("directory", os.getcwd())
    values = merged(values, flags)
    if directory is not None:
        values["directory"] = os.path.abspath(Path(directory).expanduser())
    if env:
        values["env"] = {**values.get("env", {}), **env}
    for part, key in ((values.get("checkpoint", {}), "dir"), (values, "output")):
        if str(part.get(key) or "").startswith("~"):  # some shells leave it there
            part[key] = os.path.expanduser(part[key])
    values.setdefault("output", USUAL_TASK if values.get("array") else USUAL)
    values["output"] = None if values["output"] == "none" else values["output"]
    return spec_from(values, "submit" if file is None else os.fspath(file))


def _instead(script: Path) -> str:
    if " " in str(script):
        return f"write powerflow submit -- {script}"
    program = "python" if script.suffix == ".py" else "bash"
    return f"write powerflow submit -- {program} {script}"


def _with_shell(spec: JobSpec) -> JobSpec:
    """Return a job with the variables of this shell that it gets."""
    kept, impossible = of_shell(os.environ, settings.secret_env())
    for name in impossible:
        note(f"{name} is not passed to the job: it is too long, or not UTF-8")
    return spec.model_copy(update={"shell_env": kept})


@dataclass(frozen=True, slots=True)
class _Task:
    """A job of a submission, and the number of its task; None for a job that is no task of an array."""

    id: str
    array_task: int | None


def _tasks(record: JobRecord, spec: JobSpec) -> list[_Task]:
    """Return all jobs of a submission: those of an array follow one another."""
    if not spec.array:
        return [_Task(record.id, None)]
    return [_Task(str(int(record.id) + i), task) for i, task in enumerate(read_array(spec.array).tasks)]


def _accepted(record: JobRecord, tasks: Sequence[_Task], output: str) -> str:
    if len(tasks) > 1:
        return f"jobs {tasks[0].id} to {tasks[-1].id} are {record.state}: array {record.id}"
    return f"job {record.id} is {record.state}" + (f"; its output goes to {line(output)}" if output else "")


@contextmanager
def _said_to_go_on(tasks: Sequence[_Task]) -> Iterator[None]:
    """Say that the jobs of a submission go on if the user interrupts a ``with`` block, or the controller has gone.

    Raises:
        InputError: One of this has happened.
    """
    first, last = tasks[0].id, tasks[-1].id
    jobs, go_on, cancel = f"job {first}", "goes on", f"powerflow cancel {first} ends it"
    if len(tasks) > 1:
        jobs, go_on, cancel = f"jobs {first} to {last}", "go on", f"powerflow cancel --array {first} ends them"
    try:
        yield
    except KeyboardInterrupt:
        raise InputError(f"interrupted; {jobs} {go_on}", fix=cancel, exit_code=INTERRUPTED) from None
    except InputError as error:
        if error.exit_code != UNREACHABLE:
            raise
        raise InputError(f"{error.what}; {jobs} {go_on} without it", fix=cancel, exit_code=UNREACHABLE) from None


def _await(controller: ControllerClient, job_id: str) -> JobRecord:
    """Wait until a job has ended, and return its record."""
    after = 0
    record = controller.ask(ops.JOB, job_id=job_id).record
    while not record.state.ended or record.completing:
        after = controller.ask(ops.EVENTS, after=after, job=job_id, wait_s=_WAIT_S).after
        record = controller.ask(ops.JOB, job_id=job_id).record
    return record
