"""Read tables of jobs from Microsoft's ITP clusters, published with ElasticFlow.

ElasticFlow is ASPLOS'23; the tables are in microsoft/elasticflow-traces on GitHub.
"""

from __future__ import annotations

from collections.abc import Mapping

from powerflow.trace.clock import Clock
from powerflow.trace.fields import batch_size, gpu_count, iteration_count, number, ran_s, seconds, text
from powerflow.trace.formats.format import csv_format
from powerflow.trace.record import TraceJob


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    return TraceJob(
        id=text(row, "job_id") or f"itp-{line}",
        submit_s=seconds(row["submission_time"], "submission_time"),
        duration_s=ran_s(number(row["duration"], "duration")),
        gpus=gpu_count(number(row["num_gpu"], "num_gpu")),
        model=text(row, "model_name").lower() or None,
        global_batch=batch_size(row.get("batch_size", ""), "batch_size"),
        iterations=iteration_count(row.get("num_iteration", ""), "num_iteration"),
    )


_COLUMNS = ("job_id", "submission_time", "duration", "num_gpu")

ITP = csv_format("itp", "an ITP table (elasticflow-traces)", _COLUMNS, _job)
ITP_MODELS = csv_format(
    "itp-models",
    "an ITP table with models (elasticflow-traces)",
    (*_COLUMNS, "num_iteration", "model_name", "deadline", "batch_size"),
    _job,
    notes=("models, batch sizes and iterations are the publishers' synthetic choice", "deadlines are not read"),
)
