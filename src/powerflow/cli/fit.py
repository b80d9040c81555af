"""``powerflow fit``: fit cost models to measured points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Json
from powerflow.cli.output import atomic_write, console, print_json, progress
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.cost.fit import Errors, Fit


def fit(
    observations: Annotated[Path, typer.Argument(help="CSV of measured points; docs/models.md names its columns.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write the models to.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", help="HTML file for plots. Default: OUTPUT with the suffix .html.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit cost models to measured points. Write the models, and a page that shows them with the points.

    Points with the same model and GPU type give one fit. A fit begins with the catalogue's values for this model, or
    with rough guesses if the catalogue does not have it. Without points at several GPU counts, the fit assumes perfect
    scaling.
    """
    from powerflow.cost.costs_file import catalogue_prior, grouped
    from powerflow.cost.fit import fit as fit_points
    from powerflow.cost.model_file import models_json
    from powerflow.cost.observation import read_observations
    from powerflow.report.fit_plot import render_fits

    page = output.with_suffix(".html") if plot is None else plot
    if page == output:
        raise InputError("model and plot would be the same file", where=str(output), fix="give --plot another name")
    groups = grouped(read_observations(observations))
    fits = []
    with progress("fitting", total=len(groups)) as step:
        for (model, gpu_type), points in groups.items():
            fits.append(fit_points(points, catalogue_prior(model, gpu_type)))
            step()
    with atomic_write(output) as model_file, atomic_write(page) as plot_file:
        model_file.write_text(models_json(fits), encoding="utf-8")
        plot_file.write_text(render_fits(fits), encoding="utf-8")
    if json:
        print_json("fit", {"models": [*map(_row, fits)], "notes": _said(fits), "output": output, "plot": page})
    else:
        _print_table(fits)
        for words in _said(fits):
            console().print(f"! {words}", soft_wrap=True)
        console().print(f"models: {output}; plots of models and points: {page}", soft_wrap=True)


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
        table.add_row(name, kind, str(len(fitted.observations)), *(_percent(e) for e in errors), frozen)
    console().print(table)


def _percent(errors: Errors | None) -> str:
    return "too few points" if errors is None else f"{100 * errors.mean:.1f} % ({100 * errors.median:.1f} %)"
