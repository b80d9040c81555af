"""``powerflow node``: list, drain and resume nodes, and declare them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.governance import DrainOrder, OffReason
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, Yes, asks, confirmed, say
from powerflow.cli.options import Json
from powerflow.cli.show import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.records import GpuRecord, NodeRecord

app = typer.Typer(rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node.")]
Reason = Annotated[str, typer.Option(help="Reason, which is written to the audit.")]


@asks
def list_nodes(controller: ControllerClient, json: Json = False, watch: Watch = None) -> None:
    """List nodes and their GPUs."""
    show("nodes", lambda: controller.ask(ops.NODES).items, _draw, json=json, every_s=watch)


@asks
def drain(
    controller: ControllerClient,
    node: Name,
    reason: Reason = "",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Stop giving a node new jobs, and move its running jobs to other nodes.

    The node is draining until its last rank has gone; then it is drained.
    """
    _say(confirmed(lambda sure: controller.ask(ops.DRAIN, DrainOrder(reason, sure), name=node), yes), json)


@asks
def resume(controller: ControllerClient, node: Name, json: Json = False) -> None:
    """Use drained or failed nodes again, with their GPUs that had faults."""
    _say(controller.ask(ops.RESUME, name=node), json)


@asks
def declare_off(
    controller: ControllerClient,
    node: Name,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Declare that a node which does not answer is off, so that its jobs can start elsewhere.

    Check this first: a job whose ranks run there after all would run twice until the node answers.
    """
    found = controller.ask(ops.DECLARE_OFF, OffReason(reason), name=node)
    say("node", found, f"{found.name} is declared off", json)


app.command("list")(list_nodes)
app.command("drain")(drain)
app.command("resume")(resume)
app.command("declare-off")(declare_off)


def _say(node: NodeRecord, json: bool) -> None:
    waits = " until its last rank has gone" if node.state == "draining" else ""
    say("node", node, f"{node.name} is {node.state}{waits}", json)


def _draw(nodes: Sequence[NodeRecord], width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import bar, noted, plain, state, watts_column
    from powerflow.units import NOTHING

    heads = ("node", "state", "GPU", "type", "job", "power", "MHz", "locked", "used")
    table = plain(*heads, left=("node", "state", "type", "used"))
    drawn = iter(watts_column([(gpu.power_w, node.emulated) for node in nodes for gpu in node.gpus]))
    for node in nodes:
        for i, gpu in enumerate(node.gpus):
            table.add_row(
                node.name if i == 0 else "",
                state(node.state) if i == 0 else "",
                f"{gpu.index}" + ("" if gpu.driver_index in (None, gpu.index) else f" (nvidia-smi {gpu.driver_index})"),
                node.gpu_type,
                gpu.job_id or ("out" if gpu.out else NOTHING),
                next(drawn),
                NOTHING if gpu.clock_mhz is None else f"{gpu.clock_mhz:.0f}",
                _locked(gpu),
                bar(gpu.utilisation),
            )
    shown = noted(table, any(node.emulated for node in nodes))
    said = [
        f"! GPU {gpu.index} of {node.name} is not used: {gpu.out}" for node in nodes for gpu in node.gpus if gpu.out
    ]
    said += [f"{node.name} is {node.state}: {_drained(node)}" for node in nodes if node.since_s is not None]
    said += [f"! not used: {words}" for node in nodes for words in node.left_out]
    return Group(shown, *(Text(words, style="yellow") for words in said)) if said else shown


def _drained(node: NodeRecord) -> str:
    """Return why, by whom and since when a node is drained."""
    from powerflow.cli.when import minute

    since = "" if node.since_s is None else f" since {minute(node.since_s)}"
    return f"{node.reason or 'no reason given'} (by {node.by}{since})"


def _locked(gpu: GpuRecord) -> str:
    """Return a GPU's clock: the one that a reading confirmed, or else the one that was requested."""
    if gpu.locked_mhz is not None:
        return f"{gpu.locked_mhz:.0f}"
    return "–" if gpu.asked_mhz is None else f"asked {gpu.asked_mhz:.0f}"
