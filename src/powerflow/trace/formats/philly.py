"""Read two tables that researchers made from Microsoft's Philly log of 2017.

The log was published with Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads"
(ATC'19). `powerflow.trace.formats.philly_json` reads the log itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from powerflow.trace.clock import Clock
from powerflow.trace.fields import gpu_count, number, ran_s, seconds, text
from powerflow.trace.formats.format import csv_format
from powerflow.trace.record import TraceJob

# Job times have no zone; the log's per-minute tables use PDT and PST (README of msr-fiddle/philly-traces).
TIME_ZONE = "America/Los_Angeles"


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    return TraceJob(
        id=f"philly-{line}",
        submit_s=clock.epoch_s(row["timestamp"], "timestamp"),
        duration_s=ran_s(number(row["duration"], "duration")),
        gpus=gpu_count(number(row["num_gpus"], "num_gpus")),
        project=text(row, "cluster"),
    )


def _job_with_wait(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    return TraceJob(
        id=f"philly-{text(row, '') or line}",
        submit_s=seconds(row["submit_time"], "submit_time"),
        duration_s=ran_s(number(row["run_time"], "run_time"), "run_time"),
        gpus=gpu_count(number(row["gpu_num"], "gpu_num")),
        wait_s=seconds(row["wait_time"], "wait_time"),
    )


PHILLY = csv_format(
    "philly",
    "a Philly table (petuum/adaptdl)",
    ("timestamp", "duration", "num_gpus", "gpu_time", "cluster"),
    _job,
    time_zone=TIME_ZONE,
    notes=("project is the virtual cluster",),
)
PHILLY_WAITS = csv_format(
    "philly-waits",
    "a Philly table with queue waits (DIR-LAB/lumos)",
    ("", "run_time", "wait_time", "submit_time", "gpu_num"),
    _job_with_wait,
    notes=(
        "each row is taken as a job; the publishers do not say whether a row is a job or one attempt of it",
        # found by matching jobs by duration and GPUs: 4,186 of them differ by exactly 3 h, in summer and in winter
        "submit times are as published: 3 h before those of the Philly table, as if local time were read as US Eastern",
    ),
)
