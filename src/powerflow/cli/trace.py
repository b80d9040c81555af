"""``powerflow trace``: inspect, convert or generate a log of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Json, of_load
from powerflow.cli.output import atomic_write, console, print_json, progress
from powerflow.cli.sanitize import line
from powerflow.units import duration, percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from powerflow.trace.record import Trace
    from powerflow.trace.statistics import Statistics

app = typer.Typer(rich_markup_mode=None)

File = Annotated[
    Path, typer.Argument(help="Log of jobs: sacct, SWF, Philly, Helios, Acme, ITP, Pollux or our CSV; may be zipped.")
]
FormatName = Annotated[str | None, typer.Option("--format", help="Format of the log. Default: detected from the file.")]
Zone = Annotated[str | None, typer.Option("--tz", help="Time zone of dates without offset: IANA name, UTC or +08:00.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="CSV file to write.")]

_SHOWN_SKIPPED = 1000  # lines listed one by one in --json; all are counted


@app.command()
def info(file: File, format: FormatName = None, tz: Zone = None, json: Json = False) -> None:
    """Show the content of a log, and the lines that could not be used."""
    trace = _read(file, format, tz)
    if json:
        print_json("trace", _document(trace))
    else:
        _show(trace)


@app.command()
def convert(file: File, output: Output, format: FormatName = None, tz: Zone = None, json: Json = False) -> None:
    """Write a log as a CSV file in PowerFlow's own format."""
    trace = _read(file, format, tz)
    _write(trace, output)
    _report(trace, output, json)


@app.command()
def generate(
    output: Output,
    jobs: Annotated[int | None, typer.Option(help="Number of jobs. Default: as many as the load needs.")] = None,
    days: Annotated[float, typer.Option(help="Number of days over which jobs are submitted.")] = 1.0,
    gpus: Annotated[int, typer.Option(help="Number of GPUs of the cluster.")] = 128,
    load: Annotated[
        float | None,
        typer.Option(help="Share of the GPUs that jobs keep busy on average. Default: 1, or free with --jobs."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed; the same arguments and seed give the same jobs.", min=0)] = 0,
    profile: Annotated[str, typer.Option(help="Kind of cluster: philly, helios or itp.")] = "philly",
    json: Json = False,
) -> None:
    """Generate a log of jobs that resembles the log of a real cluster."""
    from powerflow.trace.synthetic import generate as draw

    if jobs is None and load is None:
        load = 1.0
    trace = draw(jobs=jobs, days=days, gpus=gpus, load=of_load(load), seed=seed, profile=profile)
    _write(trace, output)
    _report(trace, output, json)


def _read(file: Path, format: str | None, tz: str | None) -> Trace:
    """Read a log of jobs, with a progress bar if stderr is a terminal."""
    from powerflow.trace.read import read_trace

    total = file.stat().st_size if file.is_file() else None
    done = 0
    with progress(f"reading {file.name}", total) as step:

        def advance(position: int) -> None:
            nonlocal done
            step(position - done)
            done = position

        return read_trace(file, format, tz=tz, progress=advance)


def _write(trace: Trace, output: Path) -> None:
    from powerflow.trace.write import write_trace

    with atomic_write(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        write_trace(trace, stream)


def _report(trace: Trace, output: Path, json: bool) -> None:
    if json:
        print_json("trace", {"output": output, **_document(trace)})
    else:
        _show(trace)
        print(f"written: {output}")


def _document(trace: Trace) -> dict[str, object]:
    from dataclasses import asdict

    from powerflow.trace.statistics import describe

    return {
        "source": trace.source,
        "format": trace.format,
        "statistics": asdict(describe(trace)),
        "notes": trace.notes,
        "skipped_lines": trace.skipped[:_SHOWN_SKIPPED],
        "skipped_count": len(trace.skipped),
    }


def _show(trace: Trace) -> None:
    from rich.table import Table

    from powerflow.trace.statistics import describe

    found = describe(trace)
    out = console()
    out.print(f"{trace.source}  ({trace.format})")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("jobs", f"{found.jobs:,}")
    table.add_row("submitted over", duration(found.span_s))
    table.add_row("GPU-hours", _or_unknown(found.gpu_hours, ",.0f"))
    if found.earlier_gpu_hours:
        table.add_row("  of these, before a requeue", f"{found.earlier_gpu_hours:,.1f}")
    table.add_row("GPUs wanted on average", _or_unknown(found.demand_gpus, ",.1f"))
    table.add_row("duration", _quantiles(found.duration_s))
    if found.wait_s is not None:
        table.add_row("wait", _quantiles(found.wait_s))
    table.add_row("time between submissions", f"CV {_or_unknown(found.interarrival_cv, '.1f')} (1 for Poisson)")
    if found.models:
        table.add_row("models", _counts(found.models))
    if set(found.outcomes) != {"unknown"}:
        table.add_row("outcomes", _counts(found.outcomes))
    out.print(table)
    out.print(_by_gpus(found))
    for note in trace.notes:
        out.print(f"note: {note}")
    if trace.skipped:
        out.print(f"skipped {len(trace.skipped):,} lines:")
        for why, lines in found.skipped.items():
            first = next(each.line for each in trace.skipped if each.why.partition(" (")[0] == why)
            out.print(f"  {lines:,} × {why} (first: line {first})")


def _by_gpus(found: Statistics) -> Table:
    from rich.table import Table

    table = Table("GPUs", "jobs", "GPU-hours", box=None, padding=(0, 2, 0, 0))
    for column in table.columns:
        column.justify = "right"
    for gpus, jobs in found.jobs_by_gpus.items():
        hours = None if found.gpu_hours_by_gpus is None else found.gpu_hours_by_gpus[gpus]
        table.add_row(str(gpus), percent(jobs), "–" if hours is None else percent(hours))
    return table


def _quantiles(values: Mapping[float, float] | None) -> str:
    if values is None:
        return "not known (work is given in iterations)"
    return " · ".join(f"p{100 * quantile:.0f} {duration(value)}" for quantile, value in values.items())


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{line(name)} {count:,}" for name, count in values.items())


def _or_unknown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
