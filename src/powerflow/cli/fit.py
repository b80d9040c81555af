"""``powerflow fit``: fit cost models to measured points, or to what other tools measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Json
from powerflow.cli.output import atomic_write, console, print_json, progress
from powerflow.cli.sanitize import line
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.cost.fit import Errors, Fit
    from powerflow.measured.source import MeasuredSource

#: Points that are printed; --json has all.
MOST_POINTS = 40


def fit(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Points (our CSV) or readings of Prometheus, W&B, Zeus, nvidia-smi, dcgmi dmon or CodeCarbon."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write the models to.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", help="HTML file for plots. Default: OUTPUT with the suffix .html.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model that was trained.")] = None,
    gpu_type: Annotated[str | None, typer.Option(help="GPU type, such as A100.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Number of GPUs of the run.", min=1)] = None,
    nodes: Annotated[int | None, typer.Option(help="Number of nodes of the run.", min=1)] = None,
    local_batch: Annotated[int | None, typer.Option(help="Samples per GPU in one pass.", min=1)] = None,
    accumulation: Annotated[int | None, typer.Option(help="Passes per iteration. Default: 1.", min=1)] = None,
    steps: Annotated[
        int | None, typer.Option(help="Iterations during the recording, or in each window.", min=1)
    ] = None,
    step_time: Annotated[float | None, typer.Option(help="Seconds per iteration, as in the script's log.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples of one epoch, for files with seconds per epoch.", min=1)
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", help="CSV that says the same of several runs, a row each; docs/models.md."),
    ] = None,
    step_metric: Annotated[
        str | None, typer.Option(help="Metric or column that counts iterations. Default: detected.")
    ] = None,
    interval: Annotated[float | None, typer.Option(help="Seconds between readings, for files without times.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="Time zone of dates without an offset.")] = None,
    json: Json = False,
) -> None:
    """Fit cost models to measured points, or to what other tools measured. Write models, and a page with plots.

    Points with the same model and GPU type give one fit. A fit begins with the catalogue's values for this model, or
    with rough guesses if the catalogue does not have it. Without points at several GPU counts, the fit assumes perfect
    scaling.

    Readings over time are those of one run, unless --runs says otherwise. Only steady training is used: warm-up,
    pauses and idle GPUs are left out, and counted. The options from --model to --tz say what the files do not tell.
    """
    from powerflow.cost.costs_file import catalogue_prior, grouped
    from powerflow.cost.fit import fit as fit_points
    from powerflow.cost.model_file import models_json
    from powerflow.cost.observation import observations_of
    from powerflow.measured.formats.format import Hints
    from powerflow.measured.read import read_measured
    from powerflow.measured.told import Told, read_runs
    from powerflow.report.fit_plot import render_fits

    page = _page(output, plot, [*files, *([] if runs is None else [runs])])
    if steps is not None and step_time is not None:
        raise InputError("--steps and --step-time say the same", where="--step-time", fix="give one of them")
    told = Told(
        model=model,
        gpu_type=gpu_type,
        gpus=gpus,
        nodes=nodes,
        local_batch=local_batch,
        accumulation=accumulation,
        step_time_s=_seconds(step_time, "--step-time"),
        steps=steps,
        samples=samples,
    )
    hints = Hints(step_metric, _seconds(interval, "--interval"), tz)
    measured = read_measured(files, told, () if runs is None else read_runs(runs), hints)
    groups = grouped(observations_of(measured.rows))
    fits = []
    with progress("fitting", total=len(groups)) as step:
        for (name, kind), points in groups.items():
            fits.append(fit_points(points, catalogue_prior(name, kind)))
            step()
    with atomic_write(output) as model_file, atomic_write(page) as plot_file:
        model_file.write_text(models_json(fits), encoding="utf-8")
        plot_file.write_text(render_fits(fits), encoding="utf-8")
    if json:
        models = [{**_row(fitted), "observations": fitted.observations} for fitted in fits]
        print_json(
            "fit", {"sources": measured.sources, "models": models, "notes": _said(fits), "output": output, "plot": page}
        )
        return
    _print_sources(measured.sources, fits)
    _print_table(fits)
    for words in _said(fits):
        console().print(f"! {words}", soft_wrap=True)
    console().print(f"models: {output}; plots of models and points: {page}", soft_wrap=True)


def _page(output: Path, plot: Path | None, read: Sequence[Path]) -> Path:
    """Return the file for plots.

    Raises:
        InputError: Models and plots would have the same file, or would replace a file that is read.
    """
    if output.is_dir() or not output.name:
        raise InputError("is a folder, not a file", where=str(output), fix="name a file in it")
    page = output.with_suffix(".html") if plot is None else plot
    if page == output:
        raise InputError("model and plot would be the same file", where=str(output), fix="give --plot another name")
    for written in (output, page):
        if written.is_file() and any(other.exists() and written.samefile(other) for other in read):
            raise InputError("is read, and would be replaced", where=str(written), fix="write to another file")
    return page


def _seconds(value: float | None, where: str) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{value} is no length of time", where=where, fix="give seconds above 0")
    return value


def _print_sources(sources: Sequence[MeasuredSource], fits: Sequence[Fit]) -> None:
    """Print what was made of each file, and the points of files that are no table of points."""
    if all(source.is_table for source in sources):
        return
    from rich.table import Table

    from powerflow.units import number_column, power_column, prose

    for source in sources:
        console().print(source.said(), soft_wrap=True)
        for words in source.notes:
            console().print(f"  ! {words}", soft_wrap=True)
    points = [seen for fitted in fits for seen in fitted.observations]
    table = Table("model", "GPU type", title="Points", title_justify="left")
    for column in ("GPUs", "local batch", "clock", "power limit", "s per step", "power"):
        table.add_column(column, justify="right")
    clocks = number_column([seen.clock_mhz for seen in points], "MHz")
    limits = power_column([seen.power_limit_w for seen in points])
    watts = power_column([seen.power_w for seen in points])
    for seen, clock, limit, power in list(zip(points, clocks, limits, watts, strict=True))[:MOST_POINTS]:
        counts = (str(seen.gpus), f"{seen.local_batch}{f' × {seen.accumulation}' * (seen.accumulation > 1)}")
        table.add_row(line(seen.model), line(seen.gpu_type), *counts, clock, limit, prose(seen.step_time_s, 4), power)
    console().print(table)
    if len(points) > MOST_POINTS:
        console().print(f"and {len(points) - MOST_POINTS:,} more points: --json lists them all")


def _said(fits: list[Fit]) -> list[str]:
    """Return notes on measured points: GPU types that the catalogue does not have, and notes of each fitted model."""
    from powerflow.cost.catalogue import declared
    from powerflow.cost.guess import in_words

    types = {fitted.model.gpu_type for fitted in fits}
    of_models = [f"{f.model.name} on {f.model.gpu_type}: {words}" for f in fits for words in f.notes]
    return [*(in_words(card) for card in declared() if card.name in types), *of_models]


def _row(fitted: Fit) -> dict[str, object]:
    """Return the errors of one fitted model as the content of a JSON document."""
    return {
        "model": fitted.model.name,
        "gpu_type": fitted.model.gpu_type,
        "points": len(fitted.observations),
        "time": _plain(fitted.time),
        "power": _plain(fitted.power),
        "held_out_time": _plain(fitted.held_out_time),
        "held_out_power": _plain(fitted.held_out_power),
        "time_sd": fitted.time_sd,
        "power_sd": fitted.power_sd,
        "frozen": fitted.frozen,
        "limit_w": fitted.model.limit_w,
        "notes": fitted.notes,
    }


def _plain(errors: Errors | None) -> dict[str, float] | None:
    return None if errors is None else errors._asdict()


def _print_table(fits: list[Fit]) -> None:
    from rich.table import Table

    table = Table("model", "GPU type", title="Error of fitted models, mean (median)", title_justify="left")
    for column in ("points", "time, fitted", "time, left out", "power, fitted", "power, left out"):
        table.add_column(column, justify="right")
    table.add_column("not fitted")
    for fitted in fits:
        errors = (fitted.time, fitted.held_out_time, fitted.power, fitted.held_out_power)
        name, kind = fitted.model.name, fitted.model.gpu_type
        frozen = ", ".join(fitted.frozen) or "nothing"
        table.add_row(line(name), line(kind), str(len(fitted.observations)), *(_percent(e) for e in errors), frozen)
    console().print(table)


def _percent(errors: Errors | None) -> str:
    return "too few points" if errors is None else f"{100 * errors.mean:.1f} % ({100 * errors.median:.1f} %)"
