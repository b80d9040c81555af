"""``powerflow budget``: set and show energy budgets of the cluster or a project, per day or month."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.governance import BudgetOrder, BudgetRecord, BudgetScope
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, Yes, asks, confirmed, note_unheard, say
from powerflow.cli.options import Json
from powerflow.cli.show import show
from powerflow.cli.when import stamp
from powerflow.energy.kinds import LEAST_J, MOST_J, Period
from powerflow.errors import InputError
from powerflow.units import kwh, kwh_column, number_column, parse_joules, power, prose

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(rich_markup_mode=None)

Project = Annotated[str | None, typer.Option("--project", help="Project of the budget. Default: the whole cluster.")]


@asks
def set_budget(
    controller: ControllerClient,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="Energy of the budget, such as 400kWh.")],
    per: Annotated[Period, typer.Option(help="Period of the budget: day or month, from local midnight.")] = "day",
    zone: Annotated[
        str | None, typer.Option(help="Time zone, such as Europe/Berlin. Default: the zone of this machine.")
    ] = None,
    project: Project = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Set an energy budget and replace the previous one. PowerFlow then slows or delays jobs to keep the budget."""
    joules = parse_joules(amount, "AMOUNT")
    if not LEAST_J <= joules <= MOST_J:
        raise InputError(f"{amount} is not a valid budget", where="AMOUNT", fix="give an amount from 1 Wh to 1000 GWh")
    order = BudgetOrder(joules, per, zone or own_zone(), _scope(project))
    budget = confirmed(lambda sure: controller.ask(ops.SET_BUDGET, replace(order, sure=sure)), yes)
    note_unheard(controller, [budget.project])
    words = f"{_whose(budget)} may use {kwh(budget.amount_j)} per {budget.period} ({budget.zone}): {_stands(budget)}"
    say("budget", {"budget": budget}, words, json)


@asks
def show_budgets(controller: ControllerClient, json: Json = False, watch: Watch = None) -> None:
    """Show energy budgets, and how much of each is used."""
    _show(controller, _draw, json, watch)


@asks
def forecast(controller: ControllerClient, json: Json = False, watch: Watch = None) -> None:
    """Forecast the energy used at the end of the day or month, at the present energy price and at other prices."""
    _show(controller, _draw_forecast, json, watch)


@asks
def drop(controller: ControllerClient, project: Project = None, json: Json = False) -> None:
    """Remove an energy budget."""
    gone = controller.ask(ops.DROP_BUDGET, BudgetScope(_scope(project)))
    say("budget", {"budget": gone}, f"{_whose(gone)} has no energy budget any more", json)


app.command("set")(set_budget)
app.command("show")(show_budgets)
app.command("forecast")(forecast)
app.command("drop")(drop)


def _show(
    controller: ControllerClient,
    draw: Callable[[Sequence[BudgetRecord], int], RenderableType],
    json: bool,
    watch: float | None,
) -> None:
    show("budgets", lambda: controller.ask(ops.BUDGETS).items, draw, json=json, every_s=watch)


def own_zone() -> str:
    """Return the IANA name of this machine's time zone; "UTC" if the name is not known."""
    if name := os.environ.get("TZ", "").lstrip(":"):
        return name
    _, found, name = os.path.realpath(Path("/etc/localtime")).partition("/zoneinfo/")
    return name if found else "UTC"


def _scope(project: str | None) -> str:
    """Return the project of a budget; "" for the cluster if the option is absent.

    Raises:
        InputError: The option is an empty text. An empty variable in a script must not mean the cluster.
    """
    if project == "":
        raise InputError("no project is named", where="--project", fix="name a project, or remove --project")
    return project or ""


def _whose(budget: BudgetRecord) -> str:
    return f"project {budget.project}" if budget.project else "the cluster"


def _stands(budget: BudgetRecord) -> str:
    return f"{budget.share:.1%} of {budget.window} used, {kwh(budget.forecast_j)} expected by {stamp(budget.end_s)}"


def _price(seconds_per_joule: float) -> str:
    return f"{prose(seconds_per_joule * 1e3)} s/kJ"


def _draw(budgets: Sequence[BudgetRecord], width: int) -> RenderableType:
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted
    from powerflow.cli.columns import Column, fitted_table

    if not budgets:
        return Text("no energy budgets")
    columns: list[Column[BudgetRecord]] = [
        Column("budget of", _whose, least=14),
        Column("per", lambda at: at.period, spare=4),
        Column("window", lambda at: at.window),
        Column("amount", lambda at: at.amount_j, right=True, alike=_kwh(lambda at: at.amount_j)),
        Column("used", lambda at: at.spent_j, right=True, alike=_used),
        Column("share", lambda at: f"{at.share:.1%}", right=True),
        Column("expected", lambda at: at.forecast_j, right=True, alike=_kwh(lambda at: at.forecast_j)),
        Column("price", lambda at: _price(at.price) if at.knows_days else "no day known", right=True, spare=1),
        Column("limit", lambda at: f"{power(at.limit_w)}{' limits jobs' if at.limited else ''}", right=True, spare=2),
        Column("by", lambda at: at.by, spare=3),
    ]
    return noted(fitted_table(budgets, columns, width), any(budget.emulated for budget in budgets))


def _kwh(joules: Callable[[BudgetRecord], float]) -> Callable[[Sequence[BudgetRecord]], list[str]]:
    return lambda budgets: kwh_column([joules(budget) for budget in budgets])


def _used(budgets: Sequence[BudgetRecord]) -> list[str]:
    from powerflow.cli.cluster.job_table import mark

    texts = kwh_column([budget.spent_j for budget in budgets])
    return [text + mark(budget.emulated) for text, budget in zip(texts, budgets, strict=True)]


def _draw_forecast(budgets: Sequence[BudgetRecord], width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import plain

    if not budgets:
        return Text("no energy budgets")
    parts: list[RenderableType] = []
    for budget in budgets:
        parts.append(Text(f"{_whose(budget)}, {budget.window}: {_stands(budget)}", style="bold"))
        if not budget.outlook:
            parts.append(Text("no day has been replayed yet, so the energy of future jobs is not known"))
            continue
        table = plain("if the energy price were", "energy used at the end", "of the budget", "", left=("",))
        prices = number_column([at.price * 1e3 for at in budget.outlook], "s/kJ")
        used = kwh_column([at.expected_j for at in budget.outlook])
        for at, price, text in zip(budget.outlook, prices, used, strict=True):
            table.add_row(price, text, f"{at.expected_j / budget.amount_j:.1%}", "" if at.fits else "too much")
        parts += [
            table,
            Text(f"now {_price(budget.price)}; meter over forecast {budget.bias:.2f}; above idle, more work may wait"),
        ]
    return Group(*parts)
