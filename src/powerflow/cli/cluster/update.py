"""``powerflow update``: change a job that waits, or the time limit of one that runs."""

from __future__ import annotations

import sys
from typing import Any

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Jobs, asks
from powerflow.cli.cluster.job_flags import takes_changes, with_numbers
from powerflow.cli.options import Json
from powerflow.cli.output import print_json
from powerflow.cli.sanitize import line
from powerflow.errors import InputError


@asks
@takes_changes
def update(controller: ControllerClient, jobs: Jobs, *, flags: dict[str, Any], json: Json = False) -> None:
    """Change jobs that are queued or held. Of a running job, only --time and --retries can be changed.

    The value none removes a limit, an output file or a dependency.
    """
    from pydantic import ValidationError

    from powerflow.api.job_change import JobChange
    from powerflow.api.job_file import message_of

    if not flags:
        raise InputError("nothing to change", fix="give an option, such as --gpus 1..4 or --priority high")
    try:
        change = JobChange.model_validate(_without_none(with_numbers(flags, controller)))
    except ValidationError as error:
        raise message_of(error, "update") from None
    done = []
    for job in jobs:
        record = controller.ask(ops.UPDATE, change, job_id=job)
        done.append(record)
        for note in record.notes:
            print(f"powerflow: note: {line(note)}", file=sys.stderr)
        if not json:
            print(f"job {job} is changed")
    if json:
        print_json("jobs", {"jobs": done})


def _without_none(flags: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else None if value == "none" else value
        for key, value in flags.items()
    }
