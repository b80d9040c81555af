"""``powerflow poc``: from a log of jobs and their measured joules to one page for who decides."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import (
    BelievedCosts,
    BelievedSizes,
    Carbon,
    Cluster,
    Currency,
    Json,
    Processes,
    Quiet,
    Report,
    Seed,
    Tariff,
    rate,
)
from powerflow.cli.output import atomic_write, console, print_json, progress_of_share
from powerflow.cli.replay import REFUSED
from powerflow.cli.sanitize import harmless
from powerflow.cli.site.poc_runs import FoundRuns, past_runs, watched_runs
from powerflow.cli.site.sources import BasicFile, CaFile, NodeLabel, PrometheusAccess, TokenFile, default_file
from powerflow.errors import InputError
from powerflow.report.poc_words import Language

if TYPE_CHECKING:
    from powerflow.report.poc import PocPage
    from powerflow.report.replay import Rates
    from powerflow.simulate.comparison import Estimate
    from powerflow.simulate.poc.poc import Poc
    from powerflow.trace.record import Trace


def poc(
    log: Annotated[Path, typer.Argument(help="An accounting log, such as the output of sacct -P.")],
    cluster: Cluster,
    file: Annotated[Path | None, typer.Option(help="File that powerflow watch keeps.")] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Prometheus that has scraped the GPUs meanwhile, instead of that file."),
    ] = None,
    token_file: TokenFile = None,
    basic_file: BasicFile = None,
    ca_file: CaFile = None,
    node_label: NodeLabel = "",
    tariff: Tariff = None,
    currency: Currency = "",
    carbon: Carbon = None,
    high: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Which jobs are important: partition, qos, account or user, such as qos=high. May be repeated.",
        ),
    ] = None,
    language: Annotated[Language, typer.Option(help="Language of the page.")] = Language.EN,
    unvalidated: Annotated[
        bool, typer.Option("--unvalidated", help="Estimate savings even if the data do not carry an answer.")
    ] = False,
    format: Annotated[str | None, typer.Option("--format", help="Format of the log; detected by default.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="Time zone of dates without an offset.")] = None,
    belief: BelievedCosts = "fitted",
    sizes: BelievedSizes = "unknown",
    seed: Seed = 0,
    processes: Processes = None,
    json: Json = False,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Say on one page what PowerFlow would save here, from a log and the joules that powerflow watch has measured.

    If the data do not carry an answer, say what to measure for how long, and exit with code 4.
    """
    from powerflow.report.poc import poc_page, refusal_line, render_poc
    from powerflow.report.replay import Rates
    from powerflow.simulate.experiment import Believed
    from powerflow.simulate.poc.poc import poc as answered
    from powerflow.trace.read import read_trace

    rates = Rates(rate(tariff, "--tariff"), rate(carbon, "--carbon"))
    with ExitStack() as stack:
        target = None if report is None else stack.enter_context(atomic_write(report))
        say = stack.enter_context(progress_of_share("poc", quiet))
        say(0.0, "reading the log")
        trace = read_trace(log, format, tz=tz)
        access = PrometheusAccess(prometheus, token_file, basic_file, ca_file, node_label)
        found = _measured(trace, cluster, file, access, say)
        result = answered(
            trace,
            cluster,
            found.runs,
            high=high or (),
            unvalidated=unvalidated,
            believed=Believed(belief, sizes),
            seed=seed,
            processes=processes,
            progress=say,
        )
        page = harmless(
            poc_page(
                result,
                rates,
                cluster=cluster,
                currency=currency,
                emulated=found.emulated,
                measured_by=found.by,
                language=language,
            )
        )
        if target is not None:
            target.write_text(render_poc(page, language), encoding="utf-8")
    if json:
        print_json("poc", _document(result, rates, currency, found, report))
    elif not quiet:
        _show(page, report)
    if result.refusals and not result.scenarios:
        reasons, advice = refusal_line(result)
        raise InputError(f"the data do not carry an answer: {reasons}", where=str(log), fix=advice, exit_code=REFUSED)


def _measured(
    trace: Trace, cluster: str, file: Path | None, access: PrometheusAccess, say: Callable[[float, str], None]
) -> FoundRuns:
    if access.url is None:
        return watched_runs(file or default_file(), trace)
    if file is not None:
        raise InputError("two sources of joules are named", where="--file and --prometheus", fix="name one")
    if not trace.jobs:
        raise InputError("it contains no jobs", where=trace.source)
    return past_runs(access, trace, cluster, lambda share, note: say(0.04 * share, note))


def _show(page: PocPage, report: Path | None) -> None:
    """Print the page on the terminal."""
    from rich import box
    from rich.table import Table

    out = console()
    out.print(page.headline, style="bold", soft_wrap=True)
    if page.standfirst:
        out.print(page.standfirst, soft_wrap=True)
    for figure in page.key_figures:
        out.print(f"  {figure.value}: {figure.meaning}", soft_wrap=True)
    out.print(f"{page.origin} {page.origin_words}", soft_wrap=True)
    for section in page.sections:
        out.print(f"\n{section.title}", style="bold")
        for words in section.words:
            out.print(words, soft_wrap=True)
        if section.grid is not None and section.grid.lines:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for head in section.grid.heads:
                table.add_column(head, overflow="fold")
            for line in section.grid.lines:
                table.add_row(*line)
            out.print(table)
    if report is not None:
        out.print(f"report: {report}", soft_wrap=True)


def _document(result: Poc, rates: Rates, currency: str, measured: FoundRuns, report: Path | None) -> dict[str, object]:
    """Return the answer as the content of a JSON document. Numbers in ``scenarios`` are modelled."""
    found, check = result.matching, result.energy
    return {
        "title": result.title,
        "days": result.days,
        "validated": not result.refusals,
        "refusals": result.refusals,
        "emulated": measured.emulated,
        "measured": {
            "by": measured.by.value,
            "gpu_hours_share": found.share,
            "jobs": found.jobs,
            "runs": found.runs,
            "unmatched_runs": found.unmatched,
            "energy_j": float(found.energy_j.sum()),
            "low_j": float(found.low_j.sum()),
            "high_j": float(found.high_j.sum()),
        },
        "reproduced": {
            "policy": result.site.discipline,
            "whole": result.site.reproductions[0].whole if result.site.reproductions else None,
            "wait_error": result.site.reproductions[0].whole.wait_error if result.site.reproductions else None,
            "utilisation_error": (
                result.site.reproductions[0].whole.utilisation_error if result.site.reproductions else None
            ),
            "energy_error": None if check is None else check.miss,
            "energy_factors": None if check is None else check.factors,
            "energy_factor_error": None if check is None else check.relative_error,
            "misses": result.site.misses,
        },
        "site_j": result.site_j,
        "scenarios": [
            {
                "gpus_as_asked": one.rigid,
                "at_equal_time": {
                    "energy_j": one.energy_j,
                    "energy_share": _of(one.energy_j, result.site_j),
                    "money": rates.money(one.energy_j),
                    "co2_kg": rates.co2_kg(one.energy_j),
                    "at_least": not one.energy_reached,
                },
                "at_equal_energy": {
                    "completion_s": one.completion_s,
                    "completion_share": one.completion_share,
                    "at_least": not one.completion_reached,
                },
                "price_share": one.price_share,
                "users": one.changes,
                "high_priority": one.important,
                "high_priority_later_share": one.important_later,
                "high_priority_delay": one.important_delay,
                "high_priority_delayed_share": one.important_delayed,
            }
            for one in result.scenarios
        ],
        "high": result.high,
        "currency": currency,
        "tariff_per_kwh": rates.tariff_per_kwh,
        "carbon_g_per_kwh": rates.carbon_g_per_kwh,
        "facts": result.facts,
        "report": report,
    }


def _of(energy_j: Estimate, whole_j: float) -> Estimate:
    from powerflow.simulate.replay.savings import times

    return times(energy_j, 1 / whole_j)
