"""``powerflow history``: list jobs that have ended, with what they used and what that cost."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api.records import JobState
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks
from powerflow.cli.columns import Column, chosen, fitted_table, print_csv, sorted_by
from powerflow.cli.options import Json
from powerflow.cli.output import console, print_json
from powerflow.cli.sanitize import harmless
from powerflow.cli.when import stamp, window
from powerflow.errors import InputError
from powerflow.units import HOUR_S, J_PER_KWH, NOTHING, elapsed, fixed

if TYPE_CHECKING:
    from rich.text import Text

    from powerflow.api.accounts import EndedJob

#: Columns that are shown if the user names none.
_USUAL = "id,name,user,project,state,reason,started,ended,ran,GPUs,J,kWh,cost"
_NEWEST = "-ended"
_STATES = "|".join(state for state in JobState if state.ended)
#: Width of a table whose fields the user has named, in characters: the terminal breaks its lines.
_ANY_WIDTH = 2000


@asks
def history(
    controller: ControllerClient,
    state: Annotated[
        list[JobState] | None,
        typer.Option("--state", metavar=_STATES, help="Show only jobs that ended in this state; may be repeated."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Show only jobs of this user.")] = None,
    project: Annotated[str | None, typer.Option(help="Show only jobs of this project.")] = None,
    since: Annotated[
        str, typer.Option(help="Show only jobs that ended later: a date such as 2026-11-01, or a time ago such as 24h.")
    ] = "7d",
    until: Annotated[str | None, typer.Option(help="Show only jobs that ended earlier. Default: now.")] = None,
    limit: Annotated[int | None, typer.Option(help="Show only the first jobs of the sorted list.", min=1)] = None,
    fields: Annotated[
        str | None,
        typer.Option("--fields", "-o", metavar="FIELD,FIELD", help="Fields to show, in this order (listed above)."),
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="[-]FIELD", help="Sort by this field; with -, the highest or latest value first.")
    ] = _NEWEST,
    header: Annotated[bool, typer.Option("--header/--no-header", help="Print the names of the fields.")] = True,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV, with full numbers, times in UTC, and nothing for unknown.")
    ] = False,
    json: Json = False,
) -> None:
    """List jobs that have ended, the newest first: how they ended, what they had, what they used, and what that cost.

    Fields: id, name, user, project, state, reason, submitted, started, ended, waited, ran, GPUs, GPU-h, J, kWh, cost,
    currency, rescales, failures.
    """
    if active := [each.value for each in state or () if not each.ended]:
        what = f"a job that is {active[0]} has not ended"
        raise InputError(what, where="--state", fix="powerflow queue lists such jobs")
    columns = chosen(fields or _USUAL, _columns(), "--fields")
    order = chosen(sort.removeprefix("-"), _columns(), "--sort")
    if len(order) > 1:
        raise InputError("the list is sorted by one field", where="--sort", fix=f"give --sort {order[0].name}")
    since_s, until_s = window(since, until, time.time())
    found = controller.history(
        since_s=since_s,
        until_s=until_s,
        states=state or (),
        user=user,
        project=project,
        limit=limit if sort == _NEWEST else None,
    )
    rows = sorted_by(found, order[0], descending=sort.startswith("-"))[:limit]
    if json:
        print_json("history", {"since_s": since_s, "until_s": until_s, "jobs": rows})
    elif csv:
        print_csv(rows, _with_currency(columns, fields), header=header)
    elif not rows:
        print(f"no such job ended from {stamp(since_s)} to {stamp(until_s)}")
    else:
        _print_table([harmless(row) for row in rows], columns, asked=fields is not None, header=header)


def _print_table(rows: list[EndedJob], columns: list[Column[EndedJob]], *, asked: bool, header: bool) -> None:
    """Print a table. Columns that the user has asked for are never left out."""
    from powerflow.cli.cluster.job_table import noted

    width = console().width
    if not asked:
        priced = any(row.cost is not None for row in rows)
        columns = [column for column in columns if priced or column.name != "cost"]
    else:
        columns = [replace(column, spare=0) for column in columns]
    currencies = {row.currency for row in rows if row.cost is not None}
    heads = {"cost": f"cost {currencies.pop()}".rstrip()} if len(currencies) == 1 else {}
    if asked:
        width = max(width, _ANY_WIDTH)
    table = fitted_table(rows, columns, width, header=header, heads=heads)
    measured = {"J", "kWh", "cost"} & {column.name for column in columns}
    emulated = any(row.emulated for row in rows)
    console(least_width=width).print(noted(table, emulated and bool(measured) and header))


def _with_currency(columns: list[Column[EndedJob]], fields: str | None) -> list[Column[EndedJob]]:
    return columns if fields else [*columns, *chosen("currency", _columns(), "--fields")]


@cache
def _columns() -> tuple[Column[EndedJob], ...]:
    return (
        Column("id", lambda job: int(job.id), right=True),
        Column("name", lambda job: job.name, least=12),
        Column("user", lambda job: job.user, spare=5, least=8),
        Column("project", lambda job: job.project, spare=6, least=8),
        Column("state", lambda job: job.state.value, _state),
        Column("reason", lambda job: job.exit, spare=1, least=20),
        Column("submitted", lambda job: _iso(job.submitted_s), lambda job: stamp(job.submitted_s)),
        Column("started", lambda job: _iso(job.started_s), lambda job: _time(job.started_s), spare=8),
        Column("ended", lambda job: _iso(job.ended_s), lambda job: stamp(job.ended_s), spare=4),
        Column("waited", _waited, lambda job: _length(_waited(job)), right=True),
        Column("ran", _ran, lambda job: _length(_ran(job)), right=True, spare=3),
        Column("GPUs", lambda job: job.gpus, right=True, spare=2),
        Column("GPU-h", lambda job: job.gpu_s / HOUR_S, lambda job: fixed(job.gpu_s / HOUR_S, 2), right=True),
        Column("J", lambda job: job.energy_j, lambda job: _amount(job.energy_j, 0), right=True, spare=7),
        Column("kWh", _kwh, lambda job: _amount(_kwh(job), 3), right=True),
        Column("cost", lambda job: job.cost, lambda job: _amount(job.cost, 2), right=True),
        Column("currency", lambda job: job.currency),
        Column("rescales", lambda job: job.rescales, right=True),
        Column("failures", lambda job: job.failures, right=True),
    )


def _state(job: EndedJob) -> Text:
    from powerflow.cli.cluster.job_table import state

    return state(job.state.value)


def _kwh(job: EndedJob) -> float | None:
    return None if job.energy_j is None else job.energy_j / J_PER_KWH


def _waited(job: EndedJob) -> float:
    """Return the seconds until the job ran for the first time, or ended without that."""
    return (job.ended_s if job.started_s is None else job.started_s) - job.submitted_s


def _ran(job: EndedJob) -> float | None:
    """Return the seconds for which the job ran; None if it never ran, or if this is not known."""
    return job.run_s


def _iso(unix_s: float | None) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def _time(unix_s: float | None) -> str:
    return NOTHING if unix_s is None else stamp(unix_s)


def _length(seconds: float | None) -> str:
    return NOTHING if seconds is None else elapsed(seconds)


def _amount(value: float | None, decimals: int) -> str:
    return "unknown" if value is None else fixed(value, decimals)
