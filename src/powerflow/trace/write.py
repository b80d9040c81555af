"""Write a trace as PowerFlow's own CSV, from which `read_trace` reads exactly the same jobs."""

from __future__ import annotations

import math
from typing import TextIO

from powerflow.trace.formats.generic import BATCHES, COLUMNS, EARLIER, LIMIT, OWNERS
from powerflow.trace.record import Trace, TraceJob


def write_trace(trace: Trace, stream: TextIO) -> None:
    """Write the jobs of a trace as CSV, one line for each job (columns: `powerflow.trace.formats.generic`).

    Args:
        trace: The trace. Its skipped lines and notes are not written.
        stream: An open text file (``newline=""``).
    """
    requeued = any(job.earlier_gpu_s for job in trace.jobs)
    changing = any(job.batch_range for job in trace.jobs)
    limited = any(job.limit_s is not None for job in trace.jobs)
    owners = [name for name in OWNERS if any(getattr(job, name) for job in trace.jobs)]
    names = (*COLUMNS, *(EARLIER,) * requeued, *BATCHES * changing, *(LIMIT,) * limited, *owners)
    stream.write(",".join(names) + "\n")
    rows = (
        (*_row(job, requeued=requeued, changing=changing, limited=limited), *(getattr(job, name) for name in owners))
        for job in trace.jobs
    )
    stream.writelines(",".join(map(_quoted, row)) + "\n" for row in rows)


def _row(job: TraceJob, *, requeued: bool, changing: bool, limited: bool) -> tuple[str, ...]:
    batches = job.batch_range
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
        *(("",) * 3 if batches is None else (str(batches.least), str(batches.most), _number(batches.noise_scale)))
        * changing,
        *(_number(job.limit_s),) * limited,
    )


def _quoted(value: str) -> str:
    """Return a CSV field in quotes if it needs them.

    ``csv.writer`` does not quote a single carriage return, and a reader would end the row there.
    """
    return '"' + value.replace('"', '""') + '"' if any(mark in value for mark in ',"\r\n') else value


def _number(value: float | None) -> str:
    """Return the shortest text from which the same number is read; "" for an unknown number (None or nan)."""
    if value is None or math.isnan(value):
        return ""
    return repr(float(value)).removesuffix(".0")
