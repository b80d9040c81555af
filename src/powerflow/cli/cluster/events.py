"""``powerflow events``: list events of the cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from powerflow.api import operations as ops
from powerflow.api.records import EventRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks, job_numbers, note
from powerflow.cli.cluster.story import PAGE, SHOWN, Limit, Node, Since, Until, User, moments, story_line
from powerflow.cli.options import Json
from powerflow.cli.output import json_line, print_json

#: Seconds for which one request waits for an event.
_WAIT_S = 20.0


@asks
def events(
    controller: ControllerClient,
    user: User = None,
    job: Annotated[
        str | None, typer.Option("--job", "-j", help="Show only this job.", autocompletion=job_numbers)
    ] = None,
    node: Node = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", "-k", help="Show only this kind, such as 'rank lost' or rank; may be repeated."),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    after: Annotated[int, typer.Option(help="Show all events after the event with this number.", min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue to print events as they happen.")] = False,
    json: Json = False,
) -> None:
    """List what happened in the cluster, newest last. With --follow and --json, print one event per line."""
    only: dict[str, Any] = {"user": user, "job": job, "node": node, "kind": kind or None, **moments(since, until)}
    found = controller.newest(ops.EVENTS, after, SHOWN if limit is None and not after else limit or 0, **only)
    after = found[-1].number if found else after
    if json and not follow:
        print_json("events", {"events": found, "after": after})
        return
    _print(found, json)
    if not (found or follow):
        note("no event matches")
    lasting = controller.following(note)
    while follow:
        page = lasting.ask(ops.EVENTS, after=after, limit=PAGE, wait_s=_WAIT_S, **only)
        _print(page.items, json)
        after = page.after


def _print(found: Sequence[EventRecord], json: bool) -> None:
    for event in found:
        print(json_line("event", event) if json else _line(event))
    sys.stdout.flush()


def _line(event: EventRecord) -> str:
    about = f"job {event.job_id}" if event.job_id else event.node or str(event.fields.get("target", ""))
    return story_line(event.time_s, about, event.kind, event.text)
