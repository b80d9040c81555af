"""``powerflow audit``: list who changed what, when, and from which address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks, job_numbers
from powerflow.cli.cluster.story import SHOWN, Limit, Node, Since, Until, User, moments, story_line
from powerflow.cli.options import Json
from powerflow.cli.output import print_json

if TYPE_CHECKING:
    from powerflow.api.governance import AuditRecord


@asks
def audit(
    controller: ControllerClient,
    user: User = None,
    job: Annotated[
        str | None, typer.Option("--job", "-j", help="Show only this job.", autocompletion=job_numbers)
    ] = None,
    node: Node = None,
    action: Annotated[
        list[str] | None,
        typer.Option("--action", "-a", help="Show only this action, such as 'cap set' or cap; may be repeated."),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    after: Annotated[int, typer.Option(help="Show all entries after the entry with this number.", min=0)] = 0,
    clocks: Annotated[bool, typer.Option("--clocks", help="Show changes of GPU clocks, too.")] = False,
    json: Json = False,
) -> None:
    """List who changed what, newest last, with the address of each request."""
    only: dict[str, Any] = {"user": user, "job": job, "node": node, "kind": action or None, **moments(since, until)}
    only["clocks"] = clocks or None
    found = controller.newest(ops.AUDIT, after, SHOWN if limit is None and not after else limit or 0, **only)
    if json:
        print_json("audit", {"audit": found, "after": found[-1].number if found else after})
        return
    if not found:
        print("there are no such changes" if after or any(only.values()) else "there are no changes yet")
    for entry in sorted(found, key=lambda entry: entry.time_s):  # tokens and clocks are noted some time after the act
        print(_line(entry))


def _line(entry: AuditRecord) -> str:
    text = entry.text + (f", from {entry.address}" if entry.address else "")
    return story_line(entry.time_s, entry.target, entry.action.removeprefix("job "), text)
