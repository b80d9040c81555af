"""``powerflow watched``: sum up what `powerflow watch` has seen."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Carbon, Currency, Json, Report, Tariff, rate
from powerflow.cli.output import atomic_write, console, plain, print_json
from powerflow.cli.sanitize import harmless
from powerflow.cli.site.sources import default_file
from powerflow.cli.when import minute, window
from powerflow.watch.grouping import GroupBy

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.watch.summary import SignalRates, UseLine, WatchSummary


def watched(
    since: Annotated[
        str | None,
        typer.Option(
            help="Start of the time window: a date such as 2026-11-01, or a time ago such as 24h.",
            show_default="7d; with --by month, this month and the eleven before",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the time window. Default: now.")] = None,
    by: Annotated[GroupBy, typer.Option(help="Sum by job, user, account, partition or month.")] = GroupBy.USER,
    tariff: Tariff = None,
    currency: Currency = "",
    carbon: Carbon = None,
    file: Annotated[Path | None, typer.Option(help="File that powerflow watch keeps.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the lines to this CSV file.")] = None,
    report: Report = None,
    json: Json = False,
) -> None:
    """Sum up what was watched: energy, money and CO2 by user or job, GPUs held idle, and clocks that could go down."""
    from powerflow.watch.ledger import WatchLedger
    from powerflow.watch.months import year_of_months
    from powerflow.watch.summary import summarise

    since_s, until_s = window(since or "7d", until, time.time())
    if since is None and by is GroupBy.MONTH:
        since_s = year_of_months(until_s)
    ledger = WatchLedger(file or default_file(), create=False)
    try:
        rows, others, state = ledger.jobs(since_s, until_s), ledger.others(since_s, until_s), ledger.state()
    finally:
        ledger.close()
    rates = _rates(tariff, currency, carbon)
    idle_w = math.nan if state.get("idle_w") is None else float(state["idle_w"])
    emulated = bool(state.get("emulated"))
    known_s = float(state.get("known_until_s") or time.time())
    summary = summarise(rows, others, since_s, until_s, by, rates, idle_w, known_until_s=known_s, emulated=emulated)
    if csv is not None:
        with atomic_write(csv) as target:
            target.write_text(_csv(summary), encoding="utf-8")
    if report is not None:
        from powerflow.cli.site.tables import page_table, sections
        from powerflow.report.watched import render_watched

        shown = harmless(summary)
        with atomic_write(report) as target:
            target.write_text(render_watched(shown, [*map(page_table, sections(shown))]), encoding="utf-8")
    if json:
        print_json("watched", _document(summary))
    else:
        console().print(_draw(harmless(summary), console().width))


def _rates(tariff: float | None, currency: str, carbon: float | None) -> SignalRates:
    from powerflow.energy.signal import constant
    from powerflow.watch.summary import SignalRates

    money, grams = rate(tariff, "--tariff"), rate(carbon, "--carbon")
    return SignalRates(
        None if money is None else constant("tariff", money, currency),
        None if grams is None else constant("carbon", grams),
    )


def _draw(summary: WatchSummary, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted
    from powerflow.cli.columns import fitted_table
    from powerflow.cli.site.tables import sections

    if not summary.total.jobs and summary.nobody.measured_s + summary.unknown.measured_s <= 0:
        return Text(
            "nothing is settled for this time yet; the first energy comes about four minutes after a watch began"
        )
    parts: list[RenderableType] = [Text(f"{minute(summary.since_s)} to {minute(summary.until_s)}")]
    for section in sections(summary):
        parts += [Text(f"\n{section.title}"), fitted_table(section.rows, section.columns, width)]
        parts += [Text(section.words, style="dim")] * bool(section.words)
    parts += [Text(f"! {note}", style="yellow") for note in summary.notes]
    return noted(Group(*parts), summary.emulated)


#: Columns of the CSV and of a line in JSON: names of `UseLine`'s attributes, and of `WatchedJob`'s.
_COLUMNS = (
    *("name", "user", "label", "account", "partition", "state", "start_s", "end_s", "jobs", "held_s", "measured_s"),
    *("energy_j", "low_j", "high_j", "idle_s", "idle_j", "judged_s", "money", "idle_money", "co2_g"),
)
#: Those that only a line of one job has.
_OF_JOB = ("account", "partition", "state", "start_s", "end_s")


def _csv(summary: WatchSummary) -> str:
    """Return the lines as CSV in plain SI units; an energy that is not known is an empty cell."""
    import csv
    import io

    from powerflow.cli.sanitize import cell

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([summary.by.value if name == "name" else name for name in _COLUMNS])
    for each in (*summary.lines, summary.nobody, summary.unknown):
        row = _row(each)
        values = [row[name] for name in _COLUMNS]
        writer.writerow([cell(value) if isinstance(value, str) else "" if value is None else value for value in values])
    return text.getvalue()


def _row(line: UseLine) -> dict[str, object]:
    known = line.measured_s > 0
    of_job = {name: getattr(line.job, name, None) for name in _OF_JOB}
    row: dict[str, object] = plain({name: of_job[name] if name in of_job else getattr(line, name) for name in _COLUMNS})
    if not known:
        row.update(dict.fromkeys(("energy_j", "low_j", "high_j", "money", "co2_g", "idle_money"), None))
    return row


def _document(summary: WatchSummary) -> dict[str, object]:
    return {
        "since_s": summary.since_s,
        "until_s": summary.until_s,
        "by": summary.by.value,
        "currency": summary.currency,
        "emulated": summary.emulated,
        "lines": [_row(line) for line in summary.lines],
        "total": _row(summary.total),
        "nobody": _row(summary.nobody),
        "unknown": _row(summary.unknown),
        "dearest": [_row(line) for line in summary.dearest],
        "lower_clocks": summary.rooms,
        "lower_clocks_modelled": True,
        "notes": summary.notes,
    }
