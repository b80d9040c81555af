"""``powerflow cancel``, ``hold`` and ``release``: change the state of jobs."""

from __future__ import annotations

import sys

from powerflow.api import operations as ops
from powerflow.api.operations import Operation
from powerflow.api.records import JobRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks
from powerflow.cli.cluster.job_selection import Selection, selects_jobs
from powerflow.cli.options import Json
from powerflow.cli.output import print_json
from powerflow.cli.sanitize import line
from powerflow.errors import InputError


@asks
@selects_jobs
def cancel(controller: ControllerClient, *, selection: Selection, json: Json = False) -> None:
    """Cancel jobs; their processes are ended."""
    _change(controller, selection, ops.CANCEL, json)


@asks
@selects_jobs
def hold(controller: ControllerClient, *, selection: Selection, json: Json = False) -> None:
    """Keep jobs from running until they are released."""
    _change(controller, selection, ops.HOLD, json)


@asks
@selects_jobs
def release(controller: ControllerClient, *, selection: Selection, json: Json = False) -> None:
    """Let held jobs run again."""
    _change(controller, selection, ops.RELEASE, json)


def _change(controller: ControllerClient, selection: Selection, operation: Operation[JobRecord], json: bool) -> None:
    """Change the state of every job that can be changed; then raise the last error, if there was one."""
    done: list[JobRecord] = []
    failed: list[InputError] = []
    for job in selection.numbers(controller):
        try:
            done.append(controller.ask(operation, job_id=job))
            if not json:
                print(f"job {job} is {done[-1].state}")
        except InputError as error:
            if error.exit_code == 5:
                raise
            failed.append(error)
    if json:
        print_json("jobs", {"jobs": done})
    elif not (done or failed):
        print("no such jobs")
    for other in failed[:-1]:
        print(f"powerflow: {line(str(other))}", file=sys.stderr)
    if failed:
        raise failed[-1]
