"""Write a trace as our own CSV, which the reader gives back exactly."""

from __future__ import annotations

import math
from typing import TextIO

from powerflow.trace.formats.generic import COLUMNS, EARLIER
from powerflow.trace.record import Trace, TraceJob


def write_trace(trace: Trace, stream: TextIO) -> None:
    """Write the jobs of a trace, one line each (see ``formats.generic``).

    Args:
        trace: What to write. Its skipped lines and notes are not part of the file.
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
    """A CSV field, quoted where it must be (csv.writer leaves a lone carriage return bare, and then ends the row)."""
    return '"' + value.replace('"', '""') + '"' if any(mark in value for mark in ',"\r\n') else value


def _number(value: float | None) -> str:
    """The shortest text that reads back as the same number; "" for what is not known."""
    if value is None or math.isnan(value):
        return ""
    return repr(float(value)).removesuffix(".0")
