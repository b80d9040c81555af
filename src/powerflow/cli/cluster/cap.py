"""``powerflow cap``: set and show power caps of the cluster or a part of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow import units
from powerflow.api import operations as ops
from powerflow.api.governance import CapOrder, CapRecord, CapScope
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, Yes, asks, confirmed, say
from powerflow.cli.options import Json
from powerflow.cli.output import print_json
from powerflow.cli.watch import show
from powerflow.cli.when import coming, stamp
from powerflow.errors import InputError
from powerflow.units import NOTHING, parse_length, parse_power, parse_ramp

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(rich_markup_mode=None)

Scope = Annotated[
    str, typer.Option(help="Part to cap: cluster, rack:NAME, row:RACK,RACK (a set of racks) or nodes:NODE,NODE.")
]


class As(StrEnum):
    """Formats in which the record of a power cap can be printed."""

    CSV = "csv"
    JSON = "json"


@asks
def set_cap(
    controller: ControllerClient,
    power: Annotated[
        str,
        typer.Argument(
            metavar="POWER",
            help="Most power that may be drawn: watts such as 60kW, or a share of the present power such as 75%.",
        ),
    ],
    scope: Scope = "cluster",
    start: Annotated[
        str | None, typer.Option("--from", help="Start of the cap: 17:00, '2026-11-01 17:00' or +15m. Default: now.")
    ] = None,
    lasts: Annotated[
        str | None, typer.Option("--for", help="Duration, such as 3h. Default: until the cap is lifted.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the cap, instead of --for.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Time by which power must be below the cap. Default: the start of the cap.")
    ] = None,
    ramp: Annotated[
        str | None, typer.Option(help="How fast power may change, such as 500W/s or 6kW/min. Default: at once.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Set a power cap. To keep it, PowerFlow slows or stops jobs."""
    if lasts is not None and until is not None:
        raise InputError("--for and --until cannot be given together", where="--until", fix="give one of the two")
    now_s = time.time()
    amount = parse_power(power, "POWER")
    start_s = None if start is None else coming(start, "--from", now_s)
    end_s = None if until is None else coming(until, "--until", now_s)
    if lasts is not None:
        end_s = (start_s or now_s) + parse_length(lasts, "--for")
    order = CapOrder(
        watts=None if amount.relative else amount.value,
        share=amount.value if amount.relative else None,
        scope=scope,
        start_s=start_s,
        end_s=end_s,
        deadline_s=None if by is None else coming(by, "--by", now_s),
        ramp_w_per_s=None if ramp is None else parse_ramp(ramp, "--ramp"),
    )
    cap = confirmed(lambda sure: controller.ask(ops.SET_CAP, replace(order, sure=sure)), yes)
    say("cap", {"cap": cap}, f"cap {cap.number}: {_said(cap)}", json)


@asks
def show_caps(controller: ControllerClient, json: Json = False, watch: Watch = None) -> None:
    """Show power caps, and how well each was kept."""
    show("caps", lambda: controller.ask(ops.CAPS).items, _draw, json=json, every_s=watch)


@asks
def lift(
    controller: ControllerClient,
    scope: Annotated[str, typer.Argument(metavar="[SCOPE]", help="Part of the cluster. Default: cluster.")] = "cluster",
    json: Json = False,
) -> None:
    """End the present power caps of a part of the cluster, and remove its future caps."""
    ended = controller.ask(ops.LIFT_CAP, CapScope(scope)).items
    say("caps", {"caps": ended}, f"there is no power cap on {scope} any more", json)


@asks
def record(
    controller: ControllerClient,
    number: Annotated[int, typer.Argument(metavar="CAP", help="Number of a cap.", min=1)],
    form: Annotated[
        As, typer.Option("--as", help="Format. csv: power over time; json: how well the cap was kept.")
    ] = As.CSV,
) -> None:
    """Print how well a power cap was kept: the power drawn and the power allowed."""
    if form is As.CSV:
        sys.stdout.write(controller.ask(ops.CAP_RECORD, number=number).csv)
        return
    found = next((cap for cap in controller.ask(ops.CAPS).items if cap.number == number), None)
    if found is None:
        raise InputError(f"there is no power cap {number}", fix="powerflow cap show lists them", exit_code=3)
    print_json("cap", {"cap": found})


app.command("set")(set_cap)
app.command("show")(show_caps)
app.command("lift")(lift)
app.command("record")(record)


def _said(cap: CapRecord) -> str:
    until = "until it is lifted" if cap.end_s is None else f"until {stamp(cap.end_s)}"
    may = f"{cap.scope} may draw {units.power(cap.watts)} from {stamp(cap.start_s)} {until}"
    return f"{may}; it draws {units.power(cap.power_w)} now"


def _draw(caps: Sequence[CapRecord], width: int) -> RenderableType:
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted, plain, seconds, watts

    if not caps:
        return Text("no power caps")
    left = ("scope", "state", "from", "until", "by")
    heads = ("cap", "scope", "state", "allowed", "drawn", "from", "until", "met after", "over", "by")
    table = plain(*heads, left=left, wraps=heads)
    for cap in caps:
        over = NOTHING if cap.over_s is None or not cap.judged_s else f"{cap.over_s / cap.judged_s:.2%} of the time"
        table.add_row(
            str(cap.number),
            cap.scope,
            cap.state,
            units.power(cap.watts),
            watts(cap.power_w, cap.emulated),
            stamp(cap.start_s),
            "it is lifted" if cap.end_s is None else stamp(cap.end_s),
            seconds(cap.under_after_s),
            over,
            cap.by,
        )
    return noted(table, any(cap.emulated for cap in caps))
