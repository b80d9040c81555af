"""Read logs in the Standard Workload Format 2.2 (Feitelson's Parallel Workloads Archive).

A line has 18 numbers; −1 means unknown. The format has no GPUs, so each processor is read as one GPU, and a note says
so. This is wrong unless the log's processors are GPUs. ``; UnixStartTime:`` in the header gives the date of second 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TextIO

from powerflow.errors import InputError
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, checked_s, clip, gpu_count, number, ran_s
from powerflow.trace.formats.format import Entry, Format
from powerflow.trace.record import JobOutcome, Skipped, TraceJob

_FIELDS = 18
_OUTCOMES = {0: JobOutcome.FAILED, 1: JobOutcome.COMPLETED, 5: JobOutcome.CANCELLED}
_PARTIAL = {2, 3, 4}  # parts of a checkpointed job; another line describes the whole job
_START = re.compile(r";\s*UnixStartTime:\s*(\d{1,12})\s*$")
_HEADER = re.compile(r";\s*(Version|Computer|UnixStartTime|MaxJobs|MaxProcs|MaxNodes)\s*:")


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    start_s = 0.0
    numbered = wrong = 0
    for line_number, line in enumerate(stream, start=1):
        body = line.strip()
        if not body:
            continue
        if body.startswith(";"):
            if found := _START.match(body):
                start_s = float(found.group(1))
                yield f"second 0 is {found.group(1)} s since 1970 (UnixStartTime)"
            continue
        numbered += 1
        try:
            yield _job(body.split(), line_number, start_s)
        except Unusable as reason:
            wrong += str(reason).startswith("not SWF")
            yield Skipped(line_number, str(reason))
    if numbered == wrong > 0:
        raise InputError(f"not SWF: no line of {_FIELDS} numbers")


def _job(fields: list[str], line: int, start_s: float) -> TraceJob:
    if len(fields) != _FIELDS:
        raise Unusable(f"not SWF: {len(fields)} fields instead of {_FIELDS}")
    values = _numbers(fields)
    status = int(values[10])
    if status in _PARTIAL:
        raise Unusable(f"part of a checkpointed job (status {status}); only its summary line counts")
    if values[3] == -1:
        raise Unusable("run time is unknown (-1)")
    asked = values[7] if values[7] > 0 else values[4]
    if asked == -1:
        raise Unusable("processors are unknown (-1)")
    queue_s = values[2]
    return TraceJob(
        id=clip(fields[0]).strip("'"),
        submit_s=checked_s(start_s + checked_s(values[1], "submit time"), "submit time"),
        duration_s=ran_s(values[3], "run time"),
        gpus=gpu_count(asked),
        wait_s=None if queue_s == -1 else checked_s(queue_s, "wait time"),
        project="" if values[11] == -1 else f"user-{values[11]:.0f}",
        name="" if values[13] == -1 else f"app-{values[13]:.0f}",
        outcome=_OUTCOMES.get(status, JobOutcome.UNKNOWN),
        limit_s=values[8] if values[8] > 0 else None,
    )


def _numbers(fields: list[str]) -> list[float]:
    """Convert the fields of a line to numbers. In a bad line, find the wrong field and name it in the error."""
    try:
        values = [*map(float, fields)]
        if math.isfinite(sum(values)) and not any("_" in field for field in fields):
            return values
    except ValueError:
        pass
    return [number(field, f"field {position}") for position, field in enumerate(fields, start=1)]


def _recognises(head: str) -> bool:
    if _HEADER.match(head.lstrip()):
        return True
    first = next((line for line in head.splitlines() if line.strip() and not line.lstrip().startswith(";")), "")
    fields = first.split()
    return len(fields) == _FIELDS and all(re.fullmatch(r"-?\d+(\.\d+)?", field) for field in fields)


SWF = Format(
    "swf",
    "a Standard Workload Format log",
    _recognises,
    _entries,
    notes=(
        "one processor is read as one GPU (SWF knows no GPUs): requested ones, or allocated where none are requested",
    ),
)
