"""``powerflow acct``: show the energy that was charged to users, projects and jobs."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.accounts import Accounts
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks
from powerflow.cli.options import Json
from powerflow.cli.show import show
from powerflow.cli.when import window
from powerflow.units import HOUR_S, NOTHING, elapsed, fixed, prose

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
        since_s, until_s = window(since, until, time.time())
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

    from powerflow.cli.cluster.job_table import noted, plain, side_by_side, state

    found, emulated = read
    total_j = found.items[-1].energy_j if found.items else 0.0
    begin, end = (time.strftime("%Y-%m-%d %H:%M", time.localtime(s)) for s in (found.since_s, found.until_s))
    priced = any(account.cost is not None for account in found.items)
    carbon = any(account.co2_g is not None for account in found.items)
    shared = any(account.fair_share is not None for account in found.items)
    named = ["name", "user", "state"] if found.by == "job" else []
    cost = f"cost {found.currency}".rstrip()
    heads = [*named, *(["jobs"] * (not named)), "GPU-hours", "energy", "share", "JCT" if named else "mean JCT"]
    heads += [*([cost] * priced), *(["kg CO2"] * carbon), *(["fair share"] * shared)]
    table = plain(found.by, *heads, left=(found.by, *named))
    used = side_by_side([account.energy_j for account in found.items], emulated)
    last = len(found.items) - 1  # the total; the last but one is idle. By position: a project may have these names
    for at, account in enumerate(found.items):
        style = "bold" if at == last else "dim" if at == last - 1 else ""
        who: list[str | Text] = [account.job_name or "", account.user or "", state(account.state or "")]
        table.add_row(
            account.name,
            *(who if named else []),
            *([NOTHING if at == last - 1 else f"{account.jobs:,}"] * (not named)),
            fixed(account.gpu_s / HOUR_S, 2) if account.gpu_s else NOTHING,
            used[at],
            f"{account.energy_j / total_j:.1%}" if total_j else NOTHING,
            NOTHING if account.mean_jct_s is None else elapsed(account.mean_jct_s),
            *([fixed(account.cost or 0.0, 2)] * priced),
            *([fixed((account.co2_g or 0.0) / 1e3, 3)] * carbon),
            *([NOTHING if account.fair_share is None else prose(account.fair_share, 6)] * shared),
            style=style,
        )
    notes = [Text(note, style="dim") for note in found.notes]
    return Group(Text(f"{begin} to {end}", style="bold"), Text(), noted(table, emulated), *notes)
