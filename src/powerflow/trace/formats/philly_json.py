"""Read the full Philly log as Microsoft publishes it: ``cluster_job_log``, a JSON array of jobs with their attempts.

A failed job was tried again, so that a job can have several attempts. The job's number of GPUs is that of its largest
attempt. Its duration is the GPU time of all attempts divided by this number, so that its total GPU time is right. A job
without a usable attempt is skipped, and the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, gpu_count, ran_s
from powerflow.trace.formats.format import Entry, Format
from powerflow.trace.formats.philly import TIME_ZONE
from powerflow.trace.json_items import array_items
from powerflow.trace.record import JobOutcome, Skipped, TraceJob

_OUTCOMES = {"Pass": JobOutcome.COMPLETED, "Killed": JobOutcome.CANCELLED, "Failed": JobOutcome.FAILED}


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    retried = 0
    for line, item in array_items(stream):
        try:
            job, attempts = _job(item, line, clock)
        except Unusable as reason:
            yield Skipped(line, str(reason))
        else:
            retried += attempts > 1
            yield job
    if retried:
        yield f"{retried} jobs had several attempts; their durations are added up"


def _job(item: object, line: int, clock: Clock) -> tuple[TraceJob, int]:
    """Return a job, and the number of attempts that its duration includes."""
    record = _mapping(item, "job")
    submit_s = clock.epoch_s(_string(record, "submitted_time"), "submitted_time")
    attempts = record.get("attempts")
    if not isinstance(attempts, list) or not attempts:
        raise Unusable("no attempt recorded: the job never ran")
    if _mapping(attempts[-1], "attempt").get("end_time") in (None, "None"):
        raise Unusable("its last attempt has no end: still running, or not logged")
    first_start_s: float | None = None
    gpu_s, gpus, usable = 0.0, 0, 0
    for attempt in attempts:
        start_s, end_s, held = _attempt(_mapping(attempt, "attempt"), clock)
        gpus = max(gpus, held)
        if start_s is None or end_s is None:
            continue
        if end_s < start_s:
            raise Unusable(f"an attempt ends {start_s - end_s:g} s before it starts")
        if first_start_s is None:
            first_start_s = start_s
        gpu_s += held * (end_s - start_s)
        usable += 1
    if first_start_s is None:
        raise Unusable("no attempt with a start and an end")
    if first_start_s < submit_s:
        raise Unusable(f"starts {submit_s - first_start_s:g} s before it is submitted")
    gpus = gpu_count(gpus)
    job = TraceJob(
        id=_string(record, "jobid") or f"philly-{line}",
        submit_s=submit_s,
        duration_s=ran_s(gpu_s / gpus),
        gpus=gpus,
        wait_s=first_start_s - submit_s,
        project=_string(record, "vc"),
        outcome=_OUTCOMES.get(_string(record, "status"), JobOutcome.UNKNOWN),
    )
    return job, usable


def _attempt(attempt: Mapping[str, Any], clock: Clock) -> tuple[float | None, float | None, int]:
    """Return the start, the end and the number of GPUs of one attempt to run a job.

    A start or end that was not logged is None.
    """
    start, end, detail = attempt.get("start_time"), attempt.get("end_time"), attempt.get("detail")
    if not isinstance(detail, list):
        raise Unusable("an attempt does not name its nodes")
    held = 0
    for node in detail:
        gpus = _mapping(node, "node").get("gpus")
        if not isinstance(gpus, list):
            raise Unusable("an attempt does not name its GPUs")
        held += len(gpus)
    start_s = clock.epoch_s(start, "start_time") if isinstance(start, str) and start != "None" else None
    end_s = clock.epoch_s(end, "end_time", not_before_s=start_s) if isinstance(end, str) and end != "None" else None
    return start_s, end_s, held


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Unusable(f"a {what} is not a JSON object")
    return value


def _string(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value.strip() if isinstance(value, str) else ""


PHILLY_JSON = Format(
    "philly-json",
    "the Philly cluster_job_log",
    lambda head: head.lstrip().startswith("[") and '"attempts"' in head and '"submitted_time"' in head,
    _entries,
    time_zone=TIME_ZONE,
    notes=("project is the virtual cluster", "GPUs are those of the attempt that held most"),
)
