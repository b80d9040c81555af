"""``powerflow cancel``, ``hold`` and ``release``: change the state of jobs."""

from __future__ import annotations

import sys

from powerflow.api import operations as ops
from powerflow.api.operations import Operation
from powerflow.api.records import JobRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Jobs, asks
from powerflow.cli.options import Json
from powerflow.cli.output import print_json
from powerflow.cli.sanitize import line
from powerflow.errors import InputError


@asks
def cancel(controller: ControllerClient, jobs: Jobs, json: Json = False) -> None:
    """Cancel jobs; their processes are ended."""
    _change(controller, jobs, ops.CANCEL, json)


@asks
def hold(controller: ControllerClient, jobs: Jobs, json: Json = False) -> None:
    """Keep jobs from running until they are released."""
    _change(controller, jobs, ops.HOLD, json)


@asks
def release(controller: ControllerClient, jobs: Jobs, json: Json = False) -> None:
    """Let held jobs run again."""
    _change(controller, jobs, ops.RELEASE, json)


def _change(controller: ControllerClient, jobs: list[str], operation: Operation[JobRecord], json: bool) -> None:
    """Change the state of every job that can be changed; then raise the last error, if there was one."""
    done: list[JobRecord] = []
    failed: list[InputError] = []
    for job in jobs:
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
    for other in failed[:-1]:
        print(f"powerflow: {line(str(other))}", file=sys.stderr)
    if failed:
        raise failed[-1]
