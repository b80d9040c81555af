"""Load a log of one day of jobs that comes with the package.

The jobs were generated, not logged:

    powerflow trace generate -o demo-day.csv --jobs 800 --days 1 --gpus 128 --load 1 --seed 5 --profile itp
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files

from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace


def demo_day() -> Trace:
    """Return a synthetic day of 800 jobs with named models. On 16 nodes of 8 GPUs, its load is 1."""
    with as_file(files("powerflow.trace") / "data" / "demo-day.csv") as path:
        trace = read_trace(path, "csv")
    return replace(trace, source="demo-day (synthetic, ships with PowerFlow)")
