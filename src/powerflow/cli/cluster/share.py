"""``powerflow share``: set and show the shares by which fair share divides GPUs between projects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.governance import LEAST_SHARE, MOST_SHARE, ShareOrder, ShareRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks, note_unheard, say
from powerflow.cli.options import Json
from powerflow.cli.show import show
from powerflow.errors import InputError
from powerflow.units import prose

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(rich_markup_mode=None)


@asks
def set_share(
    controller: ControllerClient,
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name of the project.")],
    share: Annotated[
        str, typer.Argument(metavar="SHARE", help="What the project is entitled to, compared with others; 1 at first.")
    ],
    json: Json = False,
) -> None:
    """Set the share of a project. Where jobs wait, a project of share 2 deserves twice the GPUs of one of share 1."""
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if not LEAST_SHARE <= value <= MOST_SHARE:
        fix = f"give a number from {LEAST_SHARE:g} to {MOST_SHARE:g}; 1 is the share of all other projects"
        raise InputError(f"{share!r} is not a share", where="SHARE", fix=fix)
    record = controller.ask(ops.SET_SHARE, ShareOrder(project, value))
    note_unheard(controller, [project])
    say("share", {"share": record}, f"project {record.project} has a share of {prose(record.share, 6)}", json)


@asks
def show_shares(controller: ControllerClient, json: Json = False, watch: Watch = None) -> None:
    """Show the shares of projects that were set. All other projects have a share of 1."""
    show("shares", lambda: controller.ask(ops.SHARES).items, _draw, json=json, every_s=watch)


app.command("set")(set_share)
app.command("show")(show_shares)


def _draw(shares: Sequence[ShareRecord], width: int) -> RenderableType:
    from rich.text import Text

    from powerflow.cli.cluster.job_table import plain
    from powerflow.cli.when import stamp

    if not shares:
        return Text("all projects have a share of 1")
    table = plain("project", "share", "set", "by", left=("project", "set", "by"))
    for record in shares:
        table.add_row(record.project, f"{prose(record.share, 6)}", stamp(record.set_s), record.by)
    return table
