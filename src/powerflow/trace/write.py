"""Write a trace as PowerFlow's own CSV, which `read_trace` reads back exactly."""

from __future__ import annotations

import math
from typing import TextIO

from powerflow.trace.formats.generic import COLUMNS, EARLIER
from powerflow.trace.record import Trace, TraceJob


def write_trace(trace: Trace, stream: TextIO) -> None:
    """Write the jobs of a trace, one line each (see `formats.generic`).

    Args:
        trace: The trace. Its skipped lines and notes are not written.
        stream: An open text file (``newline=""``).
    """
    requeued = any(job.earlier_gpu_s for job in trace.jobs)
    stream.write(",".join((*COLUMNS, *(EARLIER,) * requeued)) + "\n")
    stream.writelines(",".join(map(_quoted, _row(job, requeued=requeued))) + "\n" for job in trace.jobs)


def _row(job: TraceJob, *, requeued: bool) -> tuple[str, ...]:
    return (
        job.id,
        _number(job.submit_s),
        _number(job.duration_s),
        str(job.gpus),
        _number(job.wait_s),
        job.model or "",
        "" if job.global_batch is None else str(job.global_batch),
        _number(job.iterations),
        job.project,
        job.name,
        str(job.outcome),
        *(_number(job.earlier_gpu_s),) * requeued,
    )


def _quoted(value: str) -> str:
    """Quote a CSV field if needed. csv.writer does not quote a lone carriage return, which would end the row."""
    return '"' + value.replace('"', '""') + '"' if any(mark in value for mark in ',"\r\n') else value


def _number(value: float | None) -> str:
    """Return the shortest text that reads back as the same number; "" for an unknown one."""
    if value is None or math.isnan(value):
        return ""
    return repr(float(value)).removesuffix(".0")
