"""Read the workload of 60 jobs that was published with Tiresias (NSDI'19; SymbioticLab/Tiresias on GitHub)."""

from __future__ import annotations

from collections.abc import Mapping

from powerflow.trace.clock import Clock
from powerflow.trace.fields import gpu_count, iteration_count, number, ran_s, seconds, text
from powerflow.trace.formats.format import csv_format
from powerflow.trace.record import TraceJob


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    return TraceJob(
        id=text(row, "job_id") or f"tiresias-{line}",
        submit_s=seconds(row["submit_time"], "submit_time"),
        duration_s=ran_s(number(row["duration"], "duration")),
        gpus=gpu_count(number(row["num_gpu"], "num_gpu")),
        model=text(row, "model_name").lower() or None,
        iterations=iteration_count(row["iterations"], "iterations"),
    )


TIRESIAS = csv_format(
    "tiresias",
    "a Tiresias workload",
    ("job_id", "num_gpu", "submit_time", "iterations", "model_name", "duration", "interval"),
    _job,
)
