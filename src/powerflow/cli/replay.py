"""``powerflow replay``: simulate your own log, and estimate what PowerFlow would have saved."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import (
    BelievedCosts,
    BelievedSizes,
    Carbon,
    Cluster,
    CostFiles,
    Json,
    Processes,
    Quiet,
    Report,
    Seed,
    Tariff,
    costs_of,
    rate,
)
from powerflow.cli.output import atomic_write, console, print_facts, print_json, progress_of_share
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.report.replay import Rates
    from powerflow.simulate.replay.replay import Replay

#: Exit code if no savings are reported.
REFUSED = 4


def replay(
    log: Annotated[Path, typer.Argument(help="An accounting log, such as the output of sacct -P.")],
    cluster: Cluster,
    tariff: Tariff = None,
    carbon: Carbon = None,
    unvalidated: Annotated[
        bool, typer.Option("--unvalidated", help="Estimate savings even if the simulation does not reproduce the log.")
    ] = False,
    format: Annotated[str | None, typer.Option("--format", help="Format of the log; detected by default.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="Time zone of dates without an offset.")] = None,
    belief: BelievedCosts = "fitted",
    sizes: BelievedSizes = "unknown",
    costs: CostFiles = None,
    seed: Seed = 0,
    processes: Processes = None,
    json: Json = False,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Simulate what your cluster did, then estimate what PowerFlow would have saved: energy, money, CO2, hours.

    If the simulated times differ from those in the log by more than 10 %, print no savings and exit with code 4.
    """
    from powerflow.report.replay import Rates, render_replay
    from powerflow.simulate.experiment import Believed
    from powerflow.simulate.replay.replay import replay as replayed
    from powerflow.trace.read import read_trace

    rates = Rates(rate(tariff, "--tariff"), rate(carbon, "--carbon"))
    with ExitStack() as stack:
        page = None if report is None else stack.enter_context(atomic_write(report))
        say = stack.enter_context(progress_of_share("replay", quiet))
        say(0.0, "reading the log")
        jobs = read_trace(log, format, tz=tz)
        result = replayed(
            jobs,
            cluster,
            unvalidated=unvalidated,
            believed=Believed(belief, sizes),
            costs=costs_of(costs, (jobs,), cluster),
            seed=seed,
            processes=processes,
            progress=say,
        )
        if page is not None:
            page.write_text(render_replay(result, rates), encoding="utf-8")
    if json or not quiet:
        _show(result, rates, report, json)
    if result.refusal is not None and result.savings is None:
        raise InputError(
            f"no savings are reported: {result.refusal}",
            where=str(log),
            fix=("check that the cluster is that of the log; " if result.reproductions else "")
            + "--unvalidated estimates savings nevertheless",
            exit_code=REFUSED,
        )


def _show(result: Replay, rates: Rates, report: Path | None, json: bool) -> None:
    """Print the result of a replay."""
    from powerflow.report.replay import advice, grids, verdict

    if json:
        print_json("replay", _document(result, rates, report))
        return
    from rich import box
    from rich.table import Table

    out = console()
    for grid in grids(result, rates):
        table = Table(box=box.SIMPLE_HEAD, title=grid.title, title_justify="left", pad_edge=False)
        for i, head in enumerate(grid.heads):
            table.add_column(head, justify="right" if i else "left", overflow="fold")
        for line in grid.lines:
            table.add_row(*line)
        out.print(table)
    out.print(verdict(result), soft_wrap=True)
    for words in result.misses:
        out.print(f"  - {words}", soft_wrap=True)
    if words := advice(result, rates):
        out.print(words, soft_wrap=True)
    print_facts(result.facts, report)


def _document(result: Replay, rates: Rates, report: Path | None) -> dict[str, object]:
    """Return the result of a replay as the content of a JSON document. Every number in ``savings`` is modelled."""
    saved = result.savings
    return {
        "title": result.title,
        "modelled": True,
        "reproductions": [
            {
                "policy": one.discipline,
                "error": one.whole.error,
                "wait_error": one.whole.wait_error,
                "utilisation_error": one.whole.utilisation_error,
                "whole": one.whole,
                "weeks": one.weeks,
            }
            for one in result.reproductions
        ],
        "policy": result.discipline,
        "validated": result.refusal is None,
        "refusal": result.refusal,
        "misses": result.misses,
        "savings": saved
        and {
            "site_j": saved.site_j,
            "site_completion_s": saved.site_completion_s,
            "recommended": saved.recommended,
            "ways": [
                {
                    "name": one.name,
                    "rigid": one.rigid,
                    "lambda_s_per_j": one.energy_price,
                    "energy_share": one.energy_share,
                    "energy_j": one.energy_j,
                    "money": rates.money(one.energy_j),
                    "co2_kg": rates.co2_kg(one.energy_j),
                    "completion_share": one.completion_share,
                    "completion_s": one.completion_s,
                }
                for one in saved.ways
            ],
        },
        "tariff_per_kwh": rates.tariff_per_kwh,
        "carbon_g_per_kwh": rates.carbon_g_per_kwh,
        "facts": result.facts,
        "report": report,
    }
