"""``powerflow events``: list events of the cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.records import EventRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks, job_numbers
from powerflow.cli.options import Json
from powerflow.cli.output import json_line, print_json
from powerflow.cli.sanitize import line
from powerflow.cli.when import stamp

#: Seconds for which one request waits for an event.
_WAIT_S = 20.0


@asks
def events(
    controller: ControllerClient,
    job: Annotated[str | None, typer.Option(help="Show only events of this job.", autocompletion=job_numbers)] = None,
    after: Annotated[int, typer.Option(help="Show only events after the event with this number.", min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue to print events as they happen.")] = False,
    json: Json = False,
) -> None:
    """List what happened in the cluster, oldest first. With --follow and --json, print one event per line."""
    every: list[EventRecord] = []
    while True:
        page = controller.ask(ops.EVENTS, after=after, job=job, limit=1000, wait_s=_WAIT_S if follow else 0.0)
        for event in page.items:
            if not json:
                print(_line(event))
            elif follow:
                print(json_line("event", event))
        sys.stdout.flush()
        every += page.items if json and not follow else ()
        after = page.after
        if not (page.items or follow):
            break
    if json:
        print_json("events", {"events": every, "after": after})


def _line(event: EventRecord) -> str:
    of = f"job {event.job_id}" if event.job_id else ""
    return f"{stamp(event.time_s)}  {line(of):<9}  {line(event.kind):<10}  {line(event.text)}"
