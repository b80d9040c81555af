"""``powerflow submit``: submit a job from a file, from flags, or from both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerflow.api import operations as ops
from powerflow.api.records import JobState
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks, say
from powerflow.cli.options import Json
from powerflow.cli.sanitize import line
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.api.job_spec import JobSpec
    from powerflow.api.records import JobRecord

#: Seconds for which one request waits for an event of the job.
_WAIT_S = 20.0


@asks
def submit(
    controller: ControllerClient,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[JOB.YAML]",
            help="File that describes the job (docs/job.md); - reads standard input. Or give --run.",
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Command to run, such as 'python train.py'.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPU counts that the job can use: 4, 1..8, 1,2,4,8, '2..16 by 2' or H100:1..8.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Project to charge.")] = None,
    priority: Annotated[str | None, typer.Option(help="Priority: protected, high, normal or low.")] = None,
    rescale: Annotated[
        str | None, typer.Option(help="How the GPU count may change: in-place, restart or none (docs/job.md).")
    ] = None,
    directory: Annotated[
        str | None, typer.Option(help="Working directory of the job. Default: that of the file, or the present folder.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="Environment variable of the job; may be repeated."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job ends; exit with 1 if it fails.")] = False,
    json: Json = False,
) -> None:
    """Submit a job. Flags replace values of the file. Even after a lost connection, the job is submitted only once."""
    flags = {"run": run, "name": name, "gpus": gpus, "project": project, "priority": priority, "rescale": rescale}
    record = controller.submit(_spec(file, {key: value for key, value in flags.items() if value}, directory, env or []))
    if not (wait and json):
        say("job", {"job": record}, f"job {record.id} is {record.state}", json)
    if not wait:
        return
    sys.stdout.flush()
    record = _await(controller, record)
    say("job", {"job": record}, f"job {record.id} {line(record.exit or record.state)}", json)
    if record.state is not JobState.COMPLETED:
        raise typer.Exit(1)


def _spec(file: Path | None, flags: dict[str, Any], directory: str | None, env: list[str]) -> JobSpec:
    """Return the job that a file and flags describe together."""
    from powerflow.api.job_file import read_spec, spec_from, spec_of_text

    if file is None:
        if "run" not in flags:
            raise InputError("nothing to run", fix="give a job.yaml, or --run COMMAND")
        values: dict[str, Any] = {"directory": os.getcwd()}
    else:
        read = spec_of_text(sys.stdin.buffer.read()) if str(file) == "-" else read_spec(file)
        values = read.model_dump(by_alias=True, exclude_unset=True)
        values.setdefault("directory", os.getcwd())
    if directory is not None:
        values["directory"] = os.path.abspath(Path(directory).expanduser())
    if env:
        values["env"] = {**values.get("env", {}), **dict(_variable(text) for text in env)}
    return spec_from({**values, **flags}, "submit" if file is None else os.fspath(file))


def _variable(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not (name and given):
        raise InputError(f"{text!r} is not NAME=VALUE", where="--env")
    return name, value


def _await(controller: ControllerClient, record: JobRecord) -> JobRecord:
    """Wait until a job has ended, and return its record."""
    after = 0
    while not record.state.ended:
        after = controller.ask(ops.EVENTS, after=after, job=record.id, wait_s=_WAIT_S).after
        record = controller.ask(ops.JOB, job_id=record.id).record
    return record
