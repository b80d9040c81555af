"""``powerflow events``: what happened."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from powerflow.api.records import EventRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks, job_numbers
from powerflow.cli.options import Json
from powerflow.cli.sanitize import line
from powerflow.cli.when import stamp

#: How long one request waits for something to happen.
_WAIT_S = 20.0


@asks
def events(
    controller: ControllerClient,
    job: Annotated[str | None, typer.Option(help="Only of this job.", autocompletion=job_numbers)] = None,
    after: Annotated[int, typer.Option(help="Only those after the event with this number.", min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen.")] = False,
    json: Json = False,
) -> None:
    """List what happened, oldest first. With --follow, --json prints one event a line."""
    from powerflow.cli.output import json_line, print_json

    every: list[EventRecord] = []
    while True:
        found = controller.events(after=after, job_id=job, wait_s=_WAIT_S if follow else 0.0)
        for event in found:
            if not json:
                print(_line(event))
            elif follow:
                print(json_line("event", event))
        sys.stdout.flush()
        every += found if json and not follow else ()
        after = found[-1].number if found else after
        if not (found or follow):
            break
    if json:
        print_json("events", {"events": every, "after": after})


def _line(event: EventRecord) -> str:
    of = f"job {event.job_id}" if event.job_id else ""
    return f"{stamp(event.time_s)}  {line(of):<9}  {line(event.kind):<10}  {line(event.text)}"
