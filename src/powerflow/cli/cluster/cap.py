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
from powerflow.cli.columns import Column
from powerflow.cli.options import Json
from powerflow.cli.output import print_json
from powerflow.cli.show import show
from powerflow.cli.when import coming, minute, stamp
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
    most = f"{cap.scope} may draw at most {units.power(cap.watts)} from {stamp(cap.start_s)} {until}"
    return f"{most}; it draws {units.power(cap.power_w)} now"


def _draw(caps: Sequence[CapRecord], width: int) -> RenderableType:
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted
    from powerflow.cli.columns import fitted_table

    if not caps:
        return Text("no power caps")
    table = fitted_table(caps, _columns(), width, style=lambda cap: "dim" if cap.state in ("ended", "lifted") else "")
    return noted(table, any(cap.emulated for cap in caps))


def _columns() -> list[Column[CapRecord]]:
    from powerflow.cli.cluster.job_table import seconds

    return [
        Column("cap", lambda cap: str(cap.number), right=True),
        Column("scope", lambda cap: cap.scope, least=7),
        Column("state", lambda cap: cap.state),
        Column("most", lambda cap: cap.watts, right=True, alike=_most),
        Column("draws now", lambda cap: cap.power_w, right=True, spare=1, alike=_drawn),
        Column("from", lambda cap: minute(cap.start_s)),
        Column("until", lambda cap: "it is lifted" if cap.end_s is None else minute(cap.end_s)),
        Column("kept after", lambda cap: seconds(cap.under_after_s), right=True, spare=3),
        Column("exceeded", _exceeded, right=True, spare=2),
        Column("set by", lambda cap: cap.by, spare=4),
    ]


def _most(caps: Sequence[CapRecord]) -> list[str]:
    return units.power_column([cap.watts for cap in caps])


def _drawn(caps: Sequence[CapRecord]) -> list[str]:
    from powerflow.cli.cluster.job_table import watts_column

    return watts_column([(cap.power_w, cap.emulated) for cap in caps])


def _exceeded(cap: CapRecord) -> str:
    """Return for which share of the time more was drawn than the cap allows."""
    if cap.over_s is None or not cap.judged_s:
        return NOTHING
    return f"{cap.over_s / cap.judged_s:.2%} of the time"
