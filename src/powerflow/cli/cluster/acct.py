"""``powerflow acct``: show the energy that was charged to users, projects and jobs."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.records import Accounts
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks
from powerflow.cli.options import Json
from powerflow.cli.watch import show
from powerflow.cli.when import past
from powerflow.errors import InputError
from powerflow.units import HOUR_S, NOTHING, percent, significant

if TYPE_CHECKING:
    from rich.console import RenderableType


class By(StrEnum):
    """Group of an account: a user, a project or a job."""

    USER = "user"
    PROJECT = "project"
    JOB = "job"


@asks
def acct(
    controller: ControllerClient,
    since: Annotated[
        str, typer.Option(help="Start of the time window: a date such as 2026-11-01, or a time ago such as 24h.")
    ] = "30d",
    until: Annotated[str | None, typer.Option(help="End of the time window. Default: now.")] = None,
    by: Annotated[By, typer.Option(help="Sum by user, project or job.")] = By.USER,
    json: Json = False,
    watch: Watch = None,
) -> None:
    """Show the energy and GPU time charged to each user, project or job, and the mean completion time of jobs."""

    def read() -> tuple[Accounts, bool]:
        now_s = time.time()
        since_s = past(since, "--since", now_s)
        until_s = now_s if until is None else past(until, "--until", now_s)
        if since_s > until_s:
            raise InputError("the window ends before it begins", where="--until", fix="give a later time")
        found = controller.ask(ops.ACCOUNTS, since_s=since_s, until_s=until_s, by=by.value)
        return found, controller.ask(ops.TOP).emulated

    show("accounts", read, _draw, _document, json=json, every_s=watch)


def _document(read: tuple[Accounts, bool]) -> dict[str, object]:
    found, emulated = read
    window = {"since_s": found.since_s, "until_s": found.until_s, "by": found.by, "emulated": emulated}
    return {**window, "accounts": found.items, "notes": found.notes}


def _draw(read: tuple[Accounts, bool], width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted, plain, seconds, side_by_side

    found, emulated = read
    total_j = found.items[-1].energy_j if found.items else 0.0
    begin, end = (time.strftime("%Y-%m-%d %H:%M", time.localtime(s)) for s in (found.since_s, found.until_s))
    priced = any(account.cost is not None for account in found.items)
    carbon = any(account.co2_g is not None for account in found.items)
    shared = any(account.fair_share is not None for account in found.items)
    heads = ["jobs", "GPU-hours", "energy", "share", "mean JCT", *(["cost"] * priced), *(["CO2"] * carbon)]
    heads += ["fair share"] * shared
    table = plain(found.by, *heads, left=(found.by,))
    used = side_by_side([account.energy_j for account in found.items], emulated)
    last = len(found.items) - 1  # the total; the last but one is idle. By position: a project may have these names
    for at, account in enumerate(found.items):
        style = "bold" if at == last else "dim" if at == last - 1 else ""
        table.add_row(
            account.name,
            NOTHING if at == last - 1 else f"{account.jobs:,}",
            significant(account.gpu_s / HOUR_S) if account.gpu_s else NOTHING,
            used[at],
            percent(account.energy_j / total_j) if total_j else NOTHING,
            seconds(account.mean_jct_s),
            *([f"{account.cost or 0.0:,.2f}"] * priced),
            *([f"{(account.co2_g or 0.0) / 1e3:,.3g} kg"] * carbon),
            *([NOTHING if account.fair_share is None else f"{account.fair_share:g}"] * shared),
            style=style,
        )
    notes = [Text(note, style="dim") for note in found.notes]
    return Group(Text(f"{begin} to {end}", style="bold"), Text(), noted(table, emulated), *notes)
