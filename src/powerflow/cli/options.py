"""Define options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.cost.costs_file import Costs
    from powerflow.simulate.workload.workload import Workload
    from powerflow.trace.record import Trace

Cluster = Annotated[str, typer.Option(help="The cluster: COUNTxGPUS:TYPE such as 16x8:A100, or a YAML file.")]
Load = Annotated[
    float | None,
    typer.Option(help="Load (requested ÷ available GPU-seconds); submission times are scaled to reach it."),
]
BelievedCosts = Annotated[
    str,
    typer.Option(
        "--belief",
        help="What the scheduler knows of costs. oracle: all; fitted: models of noisy points; online: learns them.",
    ),
]
BelievedSizes = Annotated[
    str,
    typer.Option(
        "--sizes",
        help="What the scheduler knows of job lengths: known, unknown or mispredicted:SIGMA (random error).",
    ),
]
CostFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--costs", help="Measured costs, used instead of the catalogue's: a file of powerflow fit, or a CSV of points."
    ),
]
ProjectShares = Annotated[
    list[str] | None,
    typer.Option(
        "--share",
        metavar="PROJECT=SHARE",
        help="Divide GPUs fairly between projects, by shares such as vision=2; other projects have 1. May be repeated.",
    ),
]
#: Largest share that is taken without a percent sign, and largest load: with a larger one percents were meant.
MOST_SHARE, MOST_LOAD = 2.0, 10.0
Seed = Annotated[int, typer.Option(help="Seed; the same arguments and seed give the same result.", min=0)]
MostGpus = Annotated[int | None, typer.Option(help="Reduce larger requests to this number of GPUs.", min=1)]
Tariff = Annotated[float | None, typer.Option(help="Money that a kWh costs.")]
Currency = Annotated[str, typer.Option(help="Currency of the tariff, such as EUR.")]
Carbon = Annotated[float | None, typer.Option(help="Grams of CO2 that a kWh emits.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Report = Annotated[Path | None, typer.Option("--report", help="Write a report to this HTML file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bar. Print only the output of --json.")]
Processes = Annotated[int | None, typer.Option(help="Number of processes. Default: one per core.", min=1)]


@dataclass(frozen=True, slots=True)
class WorkloadOf:
    """Function from a seed to its workload, which can be sent to other processes.

    With n traces, seed s takes trace number s mod n.
    """

    traces: Sequence[Trace]
    cluster: str
    load: float | None
    most_gpus: int | None
    costs: Costs | None = None

    def __call__(self, seed: int) -> Workload:
        """Build the workload of a seed."""
        from powerflow.simulate.workload.build import build_workload

        trace = self.traces[seed % len(self.traces)]
        return build_workload(
            trace, self.cluster, load=self.load, seed=seed, most_gpus=self.most_gpus, costs=self.costs
        )


def costs_of(files: Sequence[Path] | None, traces: Sequence[Trace], cluster: str) -> Costs | None:
    """Read the files of ``--costs``; return None if there are none.

    Args:
        files: The files.
        traces: The logs whose jobs are to have these costs.
        cluster: The cluster, as the user gave it.

    Raises:
        InputError: A file cannot be read, or no job of the logs has a model of the files on a GPU type of the cluster.
    """
    from powerflow.cost.costs_file import read_costs
    from powerflow.simulate.workload.measured_costs import check_used

    costs = read_costs(files or ())
    if costs is not None:
        check_used(costs, traces, cluster)
    return costs


def rate(value: float | None, where: str) -> float | None:
    """Return a price or the emissions of a kWh, as given.

    Raises:
        InputError: It is negative or not a number.
    """
    if value is not None and not (value >= 0 and math.isfinite(value)):
        raise InputError(f"{value} is not a valid rate", where=where, fix="give a number ≥ 0 per kWh")
    return value


def of_load(load: float | None) -> float | None:
    """Return the load of ``--load``.

    Raises:
        InputError: It is so large that percents were meant.
    """
    if load is not None and load > MOST_LOAD:
        what = f"{load:g} would be {load:,.0f} times the GPUs there are"
        raise InputError(what, where="--load", fix="1 keeps all GPUs busy; write 0.8 for 80 %")
    return load


def split(text: str, where: str) -> list[str]:
    """Split a text at its commas.

    Raises:
        InputError: A part between two commas is empty.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise InputError(f"{text!r} has an empty part", where=where, fix="put one comma between two names")
    return words


def project_shares(words: Sequence[str] | None, traces: Sequence[Trace]) -> dict[str, float]:
    """Read shares of projects, such as ``vision=2``.

    Raises:
        InputError: A word is not a project and a number above 0, a project has no job in the traces, or it is named
            twice.
    """
    found: dict[str, float] = {}
    for word in words or ():
        project, _, number = word.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not project or not 0 < share < float("inf"):
            raise InputError(f"{word!r} is not a project and its share", where="--share", fix="write vision=2")
        if not any(job.project == project for trace in traces for job in trace.jobs):
            raise InputError(f"no job is of project {project!r}", where="--share", fix="name a project of the log")
        if project in found:
            raise InputError(f"project {project} has two shares", where="--share", fix="give one of them")
        found[project] = share
    return found


def shares(text: str, where: str) -> list[float]:
    """Read shares separated by commas, such as ``0.9`` or ``90%``. A share that occurs twice is returned once.

    Raises:
        InputError: A part is not a number above 0.
    """
    read = []
    for word in split(text, where):
        number = word.removesuffix("%").strip()
        try:
            value = float(number) / (100.0 if word.endswith("%") else 1.0)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise InputError(
                f"{word!r} is not a share above 0", where=where, fix="give shares such as 1.0,0.9,0.8 or 100%,90%"
            )
        if value > MOST_SHARE and not word.endswith("%"):
            raise InputError(f"{word} would be {100 * value:,.0f} %", where=where, fix=f"write {number}% or a share")
        read.append(value)
    return list(dict.fromkeys(read))
