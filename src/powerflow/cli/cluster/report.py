"""``powerflow report``: sum up what a month, a week or some days used, for the terminal, as a page and as CSV."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import asks, note_unheard
from powerflow.cli.options import Json, Report
from powerflow.cli.output import atomic_write, console, print_json
from powerflow.cli.sanitize import harmless
from powerflow.errors import InputError
from powerflow.report.poc_words import Language

if TYPE_CHECKING:
    from datetime import tzinfo

    from rich.console import RenderableType

    from powerflow.report.period_report import PeriodReport


@asks
def report(
    controller: ControllerClient,
    period: Annotated[
        str,
        typer.Option(
            help="A month (2026-11), a week (2026-W48), a day (2026-11-20), or days (2026-11-20..2026-11-27): both of "
            "them count."
        ),
    ],
    project: Annotated[str | None, typer.Option(help="Count only jobs of this project.")] = None,
    user: Annotated[str | None, typer.Option(help="Count only jobs of this user.")] = None,
    zone: Annotated[
        str | None,
        typer.Option(help="Time zone of the days, such as Europe/Berlin. Default: the zone of this machine."),
    ] = None,
    language: Annotated[Language, typer.Option(help="Language of the page.")] = Language.EN,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write one line for each job to this CSV file.")] = None,
    page: Report = None,
    json: Json = False,
) -> None:
    """Sum up a period: energy, money, CO2, GPU-hours, jobs and completion times, by project and by user.

    The page is for a reader who was not there: the result first, then the tables, what PowerFlow saved as far as that
    is known, what is not known, and which commands give the same numbers.
    """
    from powerflow.report.period import report_period
    from powerflow.report.period_report import period_report

    whole = report_period(period, _zone(zone), time.time())
    since_s, until_s = whole.since_s, whole.until_s
    found = period_report(
        whole,
        controller.ask(ops.ACCOUNTS, since_s=since_s, until_s=until_s, by="job"),
        project=project,
        user=user,
        emulated=controller.ask(ops.TOP).emulated,
        predictions=controller.ask(ops.PREDICTIONS, since_s=since_s, until_s=until_s, project=project, user=user),
        simulated=controller.ask(ops.STAGES).replayed,
    )
    if project is not None and not found.jobs:
        note_unheard(controller, [project])
    if csv is not None:
        _write_csv(csv, found)
    if page is not None:
        _write_page(page, harmless(found), language)
    if json:
        print_json("report", _document(found))
    else:
        console().print(_draw(harmless(found), console().width))
        for written in (csv, page):
            if written is not None:
                console().print(f"written: {written}", soft_wrap=True)


def _zone(name: str | None) -> tzinfo | None:
    """Return a time zone by its name; None for that of this machine."""
    if name is None:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"{name!r} is not a time zone", where="--zone", fix="try Europe/Berlin or UTC") from None


def _write_csv(path: Path, found: PeriodReport) -> None:
    from powerflow.api.accounts import Account
    from powerflow.cli.cluster.report_tables import csv_columns
    from powerflow.cli.columns import write_csv

    idle = found.idle
    rows = list(found.jobs)
    if idle is not None:  # so that the lines add up to the total
        rows.append(Account(idle.name, 0, idle.gpu_s, idle.energy_j or 0.0, None, idle.cost, idle.co2_g))
    with atomic_write(path) as target, target.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, rows, csv_columns(found))


def _write_page(path: Path, found: PeriodReport, language: Language) -> None:
    from powerflow.cli.cluster.report_tables import group_tables, page_table, top_jobs
    from powerflow.report.period_page import render_period

    tables = [*map(page_table, group_tables(found, language)), page_table(top_jobs(found, language))]
    with atomic_write(path) as target:
        target.write_text(render_period(found, tables, language), encoding="utf-8")


def _document(found: PeriodReport) -> dict[str, object]:
    from powerflow.report.period_report import completed_in, energy_of
    from powerflow.report.period_text import missing, same_numbers, savings

    jobs = [
        {
            "id": job.name,
            "name": job.job_name,
            "user": job.user,
            "project": job.project,
            "state": job.state,
            "submitted_s": job.submitted_s,
            "ended_s": job.ended_s,
            "completed": completed_in(job, found.period),
            "gpu_s": job.gpu_s,
            "energy_j": energy_of(job),
            "cost": None if energy_of(job) is None else job.cost,
            "co2_g": None if energy_of(job) is None else job.co2_g,
        }
        for job in found.jobs
    ]
    period = found.period
    return {
        "period": period.name,
        "since_s": period.since_s,
        "until_s": period.until_s,
        "over": period.over,
        "project": found.project,
        "user": found.user,
        "currency": found.currency,
        "emulated": found.emulated,
        "total": found.total,
        "idle": found.idle,
        "projects": found.projects,
        "users": found.users,
        "jobs": jobs,
        "predictions": found.predictions,
        "simulated": found.simulated,
        "savings": list(savings(found, Language.EN)),
        "unknown": list(missing(found, Language.EN)),
        "notes": found.notes,
        "same_numbers": same_numbers(found),
    }


def _draw(found: PeriodReport, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted
    from powerflow.cli.cluster.report_tables import group_tables, top_jobs
    from powerflow.cli.columns import fitted_table
    from powerflow.report.period_text import headline, missing, same_numbers, savings, standfirst

    english = Language.EN
    parts: list[RenderableType] = [
        Text(headline(found, english), style="bold"),
        Text(" ".join(standfirst(found, english))),
    ]
    if found.jobs:
        for table in group_tables(found, english):
            parts += [Text(f"\n{table.title}", style="bold"), fitted_table(table.rows, table.columns, width)]
        top = top_jobs(found, english)
        parts += [Text(f"\n{top.title}", style="bold"), fitted_table(top.rows, top.columns, width)]
        parts += [Text(top.words, style="dim")] * bool(top.words)
    parts += [Text("\nWhat PowerFlow saved", style="bold"), *(Text(words) for words in savings(found, english))]
    parts += [Text()] + [Text(f"! {words}", style="yellow") for words in missing(found, english)]
    parts += [Text(note, style="dim") for note in found.notes]
    parts += [Text(f"the same numbers: {command}", style="dim") for command in same_numbers(found)]
    return noted(Group(*parts), found.emulated)
