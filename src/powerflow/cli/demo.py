"""``powerflow demo``: the policies on a day of jobs, in under a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from powerflow.cli.options import Json, Processes, Quiet, WorkloadOf

#: What the demo day was made for.
CLUSTER = "16x8:A100"
MOST_GPUS = 64
#: Few policies come down to 70 % on a cluster that is idle for half of the time.
LEVELS = (1.0, 0.9, 0.8, 0.7)


def demo(
    trace: Annotated[Path | None, typer.Argument(help="A log of jobs to take instead of the day that ships.")] = None,
    cluster: Annotated[str, typer.Option(help="The cluster that is simulated.")] = CLUSTER,
    report: Annotated[Path, typer.Option("--report", help="Where to write the report.")] = Path("powerflow-demo.html"),
    processes: Processes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare the policies on a day of jobs that ships with PowerFlow, or on a log of your own.

    One seed, and fewer settings for each policy than powerflow compare tries, to be done within a minute.
    """
    from powerflow.cli.compare import reporting, show, write_page
    from powerflow.cli.output import atomic_write
    from powerflow.policy import registry
    from powerflow.simulate.compare import compare
    from powerflow.simulate.frontier import Sweep
    from powerflow.trace.demo import demo_day
    from powerflow.trace.read import read_trace

    # fewer than the default: a first run also compiles, and is to be done within a minute on two cores
    sweep = Sweep(
        prices=(0.0, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
        thresholds=(0.0, 0.5, 0.75, 1.0, 2.0),
        etas=(0.35, 0.6, 1.0),
        clocks=2,
        rounds=1,
        bound=(0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2),
    )
    jobs = demo_day() if trace is None else read_trace(trace)
    with atomic_write(report) as page:
        with reporting("comparing policies", quiet) as progress:
            comparison = compare(
                WorkloadOf((jobs,), cluster, None, MOST_GPUS),
                registry.names(),
                [0],
                levels=LEVELS,
                sweep=sweep,
                processes=processes,
                progress=progress,
            )
        write_page(page, comparison)
    show(comparison, report, json, quiet)
