"""``powerflow audit``: list who changed what, when, and from which address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks
from powerflow.cli.options import Json
from powerflow.cli.output import print_json
from powerflow.cli.sanitize import line
from powerflow.cli.when import stamp

if TYPE_CHECKING:
    from powerflow.api.governance import AuditRecord


@asks
def audit(
    controller: ControllerClient,
    after: Annotated[int, typer.Option(help="Show only entries after the entry with this number.", min=0)] = 0,
    json: Json = False,
) -> None:
    """List all changes by users, oldest first: who changed what, when, and from which address."""
    found = controller.every(ops.AUDIT, after)
    if json:
        print_json("audit", {"audit": found, "after": found[-1].number if found else after})
        return
    if not found:
        print(f"there are no changes{' since then' if after else ' yet'}")
    for entry in found:
        print(_line(entry))


def _line(entry: AuditRecord) -> str:
    fields = " ".join(f"{key}={value}" for key, value in entry.fields.items() if value not in (None, ""))
    who = f"{line(entry.user) or '-':<10}  {line(entry.address) or '-':<15}"
    return f"{stamp(entry.time_s)}  {who}  {line(entry.action):<12}  {line(entry.target)}  {line(fields)}".rstrip()
