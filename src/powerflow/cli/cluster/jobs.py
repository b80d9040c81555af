"""``powerflow cancel``, ``hold`` and ``release``: changing what becomes of jobs."""

from __future__ import annotations

import sys

from powerflow.api.records import JobRecord
from powerflow.cli.cluster.client import ControllerClient, number
from powerflow.cli.cluster.controller_command import Jobs, asks
from powerflow.cli.options import Json
from powerflow.cli.sanitize import line
from powerflow.errors import InputError


@asks
def cancel(controller: ControllerClient, jobs: Jobs, json: Json = False) -> None:
    """Withdraw jobs; what runs is ended."""
    _change(controller, jobs, "cancel", json)


@asks
def hold(controller: ControllerClient, jobs: Jobs, json: Json = False) -> None:
    """Keep jobs from running until they are released."""
    _change(controller, jobs, "hold", json)


@asks
def release(controller: ControllerClient, jobs: Jobs, json: Json = False) -> None:
    """Let held jobs run again."""
    _change(controller, jobs, "release", json)


def _change(controller: ControllerClient, jobs: list[str], action: str, json: bool) -> None:
    """Change every job that can be changed; then, if one could not, end as the last of those says."""
    from powerflow.cli.output import print_json

    for job in jobs:
        number(job)  # nothing is changed where one of the numbers is none
    done: list[JobRecord] = []
    failed: list[InputError] = []
    for job in jobs:
        try:
            done.append(controller.change(job, action))
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
