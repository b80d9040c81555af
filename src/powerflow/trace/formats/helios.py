"""Read the log of SenseTime's Helios clusters (2020), ``cluster_log.csv``.

It was published by Hu et al., SC'21 (S-Lab-System-Group/HeliosData on GitHub).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TextIO

from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, gpu_count, number, ran_s, seconds, text
from powerflow.trace.formats.format import Entry, Format, csv_entries, header_of
from powerflow.trace.record import JobOutcome, TraceJob

# the publishers count TIMEOUT and NODE_FAIL as failed
_OUTCOMES = {
    "COMPLETED": JobOutcome.COMPLETED,
    "CANCELLED": JobOutcome.CANCELLED,
    "FAILED": JobOutcome.FAILED,
    "TIMEOUT": JobOutcome.FAILED,
    "NODE_FAIL": JobOutcome.FAILED,
}
NEEDED = frozenset({"job_id", "gpu_num", "state", "submit_time", "duration"})
_TELLING = NEEDED | {"vc", "node_num"}  # no other format has all of these


def ended_job(row: Mapping[str, str], line: int, clock: Clock, log: str, state: str, outcome: JobOutcome) -> TraceJob:
    """Return the job in a row of a Helios or an Acme log, which have the same columns.

    Args:
        row: Column → text.
        line: Line number of the row.
        clock: Converts dates to seconds.
        log: Name of the log. A job without an id gets one from this name and the line number.
        state: State of the job as logged.
        outcome: How the job ended.

    Raises:
        Unusable: The job has not ended, or a value cannot be used.
    """
    if state in {"RUNNING", "PENDING", "SUSPENDED"}:
        raise Unusable(f"not ended ({state})")
    return TraceJob(
        id=text(row, "job_id") or f"{log}-{line}",
        submit_s=clock.epoch_s(row["submit_time"], "submit_time"),
        duration_s=ran_s(number(row["duration"], "duration")),
        gpus=gpu_count(number(row["gpu_num"], "gpu_num")),
        wait_s=seconds(row["queue"], "queue") if text(row, "queue") else None,
        project=text(row, "vc") or text(row, "user"),
        outcome=outcome,
    )


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    state = text(row, "state")
    return ended_job(row, line, clock, "helios", state, _OUTCOMES.get(state, JobOutcome.UNKNOWN))


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    columns: set[str] = set()

    def lacks(header: tuple[str, ...]) -> set[str]:
        columns.update(header)
        return set(NEEDED - columns)

    yield from csv_entries(stream, clock, "a Helios log", lacks, _job)
    yield "project is the virtual cluster" if "vc" in columns else "project is the user (there is no column vc)"


HELIOS = Format(
    "helios",
    "a Helios log",
    lambda head: set(header_of(head)) >= _TELLING,
    _entries,
    time_zone="Asia/Shanghai",  # SenseTime's clusters; the publishers name no zone
)
