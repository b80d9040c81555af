"""``powerflow acct``: who was charged how much energy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api.records import Account
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks
from powerflow.cli.options import Json
from powerflow.cli.when import past
from powerflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType


class By(StrEnum):
    """What accounts are of."""

    USER = "user"
    PROJECT = "project"
    JOB = "job"


@dataclass(frozen=True, slots=True)
class Statement:
    """Accounts of a window of time (Unix seconds)."""

    since_s: float
    until_s: float
    by: str
    emulated: bool
    accounts: Sequence[Account]
    notes: Sequence[str] = ()


@asks
def acct(
    controller: ControllerClient,
    since: Annotated[str, typer.Option(help="From when: a date, a time, or how long ago (24h, 7d).")] = "30d",
    until: Annotated[str | None, typer.Option(help="Until when; now by default.")] = None,
    by: Annotated[By, typer.Option(help="Whose accounts.")] = By.USER,
    json: Json = False,
    watch: Watch = None,
) -> None:
    """Show who was charged how much: GPU-hours, energy, and how long jobs took."""
    from powerflow.cli.watch import show

    def read() -> Statement:
        now_s = time.time()
        since_s = past(since, "--since", now_s)
        until_s = now_s if until is None else past(until, "--until", now_s)
        if since_s > until_s:
            raise InputError("the window ends before it begins", where="--until", fix="give a later time")
        found = controller.accounts(since_s=since_s, until_s=until_s, by=by)
        return Statement(since_s, until_s, by, controller.top().emulated, found.items, found.notes)

    show("accounts", read, _draw, lambda found: found, json=json, every_s=watch)


def _draw(found: Statement, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted, plain, seconds, side_by_side
    from powerflow.units import HOUR_S, NOTHING, percent, significant

    total_j = found.accounts[-1].energy_j if found.accounts else 0.0
    begin, end = (time.strftime("%Y-%m-%d %H:%M", time.localtime(s)) for s in (found.since_s, found.until_s))
    priced = any(account.cost is not None for account in found.accounts)
    carbon = any(account.co2_g is not None for account in found.accounts)
    heads = ("jobs", "GPU-hours", "energy", "share", "mean JCT", *(["cost"] * priced), *(["CO2"] * carbon))
    table = plain(found.by, *heads, left=(found.by,))
    used = side_by_side([account.energy_j for account in found.accounts], found.emulated)
    last = len(found.accounts) - 1  # the total; before it what was idle: by place, since a project may have these names
    for at, account in enumerate(found.accounts):
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
            style=style,
        )
    notes = [Text(note, style="dim") for note in found.notes]
    return Group(Text(f"{begin} to {end}", style="bold"), Text(), noted(table, found.emulated), *notes)
