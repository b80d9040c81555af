"""``powerflow compare``: compare policies on the same jobs at equal metered energy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerflow.cli.options import (
    BelievedCosts,
    BelievedSizes,
    CostFiles,
    Json,
    Load,
    MostGpus,
    Processes,
    ProjectShares,
    Quiet,
    Report,
    Seed,
    WorkloadOf,
    costs_of,
    of_load,
    project_shares,
    shares,
    split,
)
from powerflow.cli.output import atomic_write, console, print_facts, print_json, progress_of_share
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.simulate.comparison import Comparison

#: Cluster for which the day of jobs in the package was made.
DAY_CLUSTER = "16x8:A100"


def compare(
    traces: Annotated[
        list[Path] | None,
        typer.Argument(help="Logs of jobs. Each seed takes the next log. Default: a day that comes with PowerFlow."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="The cluster: COUNTxGPUS:TYPE such as 16x8:A100 (the default), or a YAML file.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Policies, separated by commas, such as prices,srtf. Default: all policies.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds. Each seed gives other random models and costs.")] = 3,
    seed: Seed = 0,
    levels: Annotated[
        str, typer.Option(help="Energy levels to compare at: shares of the energy that FIFO uses at maximum clock.")
    ] = "100%,90%,80%,70%",
    load: Load = None,
    belief: BelievedCosts = "oracle",
    sizes: BelievedSizes = "known",
    costs: CostFiles = None,
    most_gpus: MostGpus = None,
    processes: Processes = None,
    share: ProjectShares = None,
    json: Json = False,
    report: Report = None,
    picture: Annotated[Path | None, typer.Option(help="Write the frontiers to this file, as an SVG picture.")] = None,
    quiet: Quiet = False,
) -> None:
    """Compare policies on the same jobs at equal energy. Print one table for each energy level.

    --seed sets the first seed. Results do not depend on --processes.
    """
    from powerflow.report.html import render_comparison
    from powerflow.report.svg import frontier_svg
    from powerflow.simulate.compare import compare as compare_policies
    from powerflow.simulate.compare import policies_for
    from powerflow.simulate.experiment import Believed
    from powerflow.trace.demo import demo_day
    from powerflow.trace.read import read_trace

    if seeds < 1:
        raise InputError(f"{seeds} seeds", where="--seeds", fix="give 1 or more")
    if traces and cluster is None:
        raise InputError("no cluster is given", where="--cluster", fix="give --cluster 16x8:A100, or a YAML file")
    if len(traces or ()) > seeds:
        raise InputError(
            f"{len(traces or ())} logs for {seeds} seeds", where="--seeds", fix="give at least one seed per log"
        )
    named = policies_for(sizes) if policies is None else split(policies, "--policies")
    wanted = shares(levels, "--levels")
    with ExitStack() as stack:
        page = None if report is None else stack.enter_context(atomic_write(report))
        drawing = None if picture is None else stack.enter_context(atomic_write(picture))
        logs = [read_trace(trace) for trace in traces] if traces else [demo_day()]
        believed = Believed(belief, sizes, shares=project_shares(share, logs))
        on = cluster or DAY_CLUSTER
        workload_of = WorkloadOf(logs, on, of_load(load), most_gpus, costs_of(costs, logs, on))
        with progress_of_share("comparing", quiet) as progress:
            comparison = compare_policies(
                workload_of,
                named,
                range(seed, seed + seeds),
                levels=wanted,
                believed=believed,
                processes=processes,
                progress=progress,
            )
        if page is not None:
            page.write_text(render_comparison(comparison), encoding="utf-8")
        if drawing is not None:
            drawing.write_text(frontier_svg(comparison), encoding="utf-8")
    show(comparison, report, json, quiet)


def show(comparison: Comparison, report: Path | None, json: bool, quiet: bool) -> None:
    """Print the table of a comparison, or the whole comparison as JSON."""
    from powerflow.report.table import comparison_table

    if json:
        print_json("compare", document(comparison, report))
    elif not quiet:
        out = console()
        out.print(comparison_table(comparison, out.width))
        print_facts(comparison.facts, report)


def document(comparison: Comparison, report: Path | None) -> dict[str, Any]:
    """Return a comparison as the content of a JSON document, without the complete simulations."""
    return {
        "title": comparison.title,
        "facts": comparison.facts,
        "levels": comparison.levels,
        "horizon_s": comparison.horizon_s,
        "reference_j": comparison.reference_j,
        "rows": comparison.rows,
        "frontiers": [_frontier(frontier.points, frontier.hull, frontier.policy) for frontier in comparison.frontiers],
        "bound": [{"energy_j": joules, "jct_mean_s": seconds} for joules, seconds in comparison.bound],
        "report": report,
    }


def _frontier(points: Sequence[Any], hull: Any, policy: str) -> dict[str, Any]:
    """Return all runs of a policy, each with the information whether it is on the policy's frontier."""
    counts = {point for front in hull.values() for point in front}
    return {
        "policy": policy,
        "points": [
            {
                "policy": point.policy,
                "knob": point.knob,
                "seed": point.seed,
                "on_frontier": point in counts,
                "metrics": point.metrics,
            }
            for point in points
        ],
    }
