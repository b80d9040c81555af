"""Read PowerFlow's own CSV of jobs, into which users can convert logs that PowerFlow cannot read.

``powerflow trace convert`` and ``powerflow trace generate`` write this format. Columns, in any order; other columns are
ignored:

- ``submit_s`` (seconds from any origin, or since 1970) or ``submit`` (ISO date and time);
- ``duration_s`` (seconds that the job ran on its GPUs; it may be empty if ``iterations`` and ``model`` are given);
- ``gpus`` (whole number ≥ 1);
- and, if known: ``id``, ``wait_s``, ``model``, ``global_batch``, ``iterations``, ``project``, ``name``,
  ``state`` (completed, failed, cancelled or unknown), ``earlier_gpu_s`` (GPU-seconds held before a requeue),
  ``time_limit_s`` (seconds that the user allowed), ``user``, ``account``, ``partition``, ``qos``, ``nodes``,
  ``raw_id`` (as in Slurm);
- for simulations in which the global batch may change (`powerflow.cost.batch_range`): ``global_batch_min``,
  ``global_batch_max`` and ``noise_scale`` (samples), all three or none, and ``global_batch``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TextIO

from powerflow.cost.batch_range import BatchRange
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, batch_size, clip, gpu_count, iteration_count, number, ran_s, seconds, text
from powerflow.trace.formats.format import Entry, Format, csv_entries, header_of
from powerflow.trace.record import JobOutcome, TraceJob

COLUMNS = (
    "id",
    "submit_s",
    "duration_s",
    "gpus",
    "wait_s",
    "model",
    "global_batch",
    "iterations",
    "project",
    "name",
    "state",
)
EARLIER = "earlier_gpu_s"  # written only if a job was requeued
LIMIT = "time_limit_s"  # written only if a job had a time limit
OWNERS = ("user", "account", "partition", "qos", "nodes", "raw_id")  # each written only if a job has it
BATCHES = ("global_batch_min", "global_batch_max", "noise_scale")  # written only if the batch of a job may change


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    model = row.get("model", "") or None
    iterations = iteration_count(row.get("iterations", ""), "iterations")
    if text(row, "duration_s"):
        duration_s = ran_s(number(row["duration_s"], "duration_s"), "duration_s")
    elif model is not None and iterations is not None:
        duration_s = math.nan
    else:
        raise Unusable("duration_s is empty, and model or iterations is missing")
    state = text(row, "state").lower() or "unknown"
    if state not in set(JobOutcome):
        raise Unusable(f"state is not one of {', '.join(JobOutcome)} ({clip(state)})")
    batch = batch_size(row.get("global_batch", ""), "global_batch")
    return TraceJob(
        id=row.get("id", "") or f"job-{line}",
        submit_s=_submit_s(row, clock),
        duration_s=duration_s,
        gpus=gpu_count(number(row["gpus"], "gpus")),
        wait_s=seconds(row["wait_s"], "wait_s") if text(row, "wait_s") else None,
        model=model,
        global_batch=batch,
        iterations=iterations,
        project=row.get("project", ""),
        name=row.get("name", ""),
        outcome=JobOutcome(state),
        earlier_gpu_s=seconds(row[EARLIER], EARLIER) if text(row, EARLIER) else 0.0,
        batch_range=_batch_range(row, batch),
        limit_s=ran_s(number(row[LIMIT], LIMIT), LIMIT) if text(row, LIMIT) else None,
        user=row.get("user", ""),
        account=row.get("account", ""),
        partition=row.get("partition", ""),
        qos=row.get("qos", ""),
        nodes=row.get("nodes", ""),
        raw_id=row.get("raw_id", ""),
    )


def _batch_range(row: Mapping[str, str], own_batch: int | None) -> BatchRange | None:
    if not any(text(row, name) for name in BATCHES):
        return None
    least, most = (batch_size(row.get(name, ""), name) for name in BATCHES[:2])
    if own_batch is None or least is None or most is None or not text(row, BATCHES[2]):
        raise Unusable(f"{', '.join(BATCHES)} and global_batch are not all given")
    noise_scale = number(row[BATCHES[2]], BATCHES[2])
    if noise_scale < 0:
        raise Unusable(f"noise_scale is negative ({noise_scale:g})")
    if not least <= own_batch <= most:
        raise Unusable(
            f"global_batch is not from global_batch_min to global_batch_max ({own_batch}: {least} to {most})"
        )
    return BatchRange(least, most, noise_scale)


def _submit_s(row: Mapping[str, str], clock: Clock) -> float:
    if "submit_s" in row:
        return seconds(row["submit_s"], "submit_s")
    return clock.epoch_s(row["submit"], "submit")


def _lacks(header: tuple[str, ...]) -> set[str]:
    missing = {"gpus", "duration_s"} - set(header)
    return missing if {"submit_s", "submit"} & set(header) else missing | {"submit_s"}


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    return csv_entries(stream, clock, "a CSV of jobs", _lacks, _job)


GENERIC = Format(
    "csv",
    "a CSV of jobs (submit_s, duration_s, gpus, …)",
    lambda head: not _lacks(header_of(head)),
    _entries,
    time_zone="UTC",
)
