"""``powerflow cancel``, ``hold`` and ``release``: change the state of jobs."""

from __future__ import annotations

import sys

from powerflow.api import operations as ops
from powerflow.api.bulk_answer import NotChanged
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
    _change(controller, selection, "cancelled", json)


@asks
@selects_jobs
def hold(controller: ControllerClient, *, selection: Selection, json: Json = False) -> None:
    """Keep jobs from running until they are released."""
    _change(controller, selection, "held", json)


@asks
@selects_jobs
def release(controller: ControllerClient, *, selection: Selection, json: Json = False) -> None:
    """Let held jobs run again."""
    _change(controller, selection, "released", json)


def _change(controller: ControllerClient, selection: Selection, to: str, json: bool) -> None:
    """Change the state of every job that can be changed; then raise the last error, if there was one."""
    from powerflow.api.job_change import MOST_JOBS, JobsOrder

    numbers = selection.numbers(controller)
    done: list[JobRecord] = []
    refused: list[NotChanged] = []
    for at in range(0, len(numbers), MOST_JOBS):
        order = JobsOrder.model_validate({"jobs": numbers[at : at + MOST_JOBS], "to": to})
        answer = controller.ask(ops.CHANGE_JOBS, order)
        done += answer.jobs
        refused += answer.refused
    if json:
        print_json("jobs", {"jobs": done})
    else:
        for job in done:
            print(f"job {job.id} is {job.state}" + ("; its processes are ending" if job.completing else ""))
    for other in refused[:-1]:
        print(f"powerflow: {line(other.why)}", file=sys.stderr)
    if refused:
        raise InputError(refused[-1].why, exit_code=refused[-1].exit_code)
