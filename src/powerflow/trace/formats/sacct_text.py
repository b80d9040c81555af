r"""Read Slurm accounting as text: ``sacct --parsable2`` (or ``-p``, ``--delimiter``) with a header.

Recommended command:

    sacct -a -X -D -P -S 2024-01-01 -o \
        JobID,Cluster,JobName,User,Account,Submit,Start,End,ElapsedRaw,Timelimit,State,NNodes,AllocTRES,ReqTRES
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TextIO

from powerflow.errors import InputError
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, number, seconds, text
from powerflow.trace.formats.format import Entry, Format
from powerflow.trace.formats.sacct_table import columns_of, fields_of, header_within
from powerflow.trace.formats.slurm import SlurmRun, jobs_of, node_list, parse_elapsed_s
from powerflow.trace.formats.slurm_gpus import (
    SlurmGpus,
    gres_gpus,
    held_gpus,
    node_count,
    parse_tres,
    submitted_gpus,
    tres_gpus,
)
from powerflow.trace.record import Skipped

_NOTHING = {"", "Unknown", "None", "NONE", "N/A", "n/a", "nan", "(null)", "INVALID"}
_GPU_COLUMNS = ("AllocTRES", "ReqTRES", "AllocGRES", "ReqGRES")


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    return jobs_of(_runs(stream, clock))


def _runs(stream: TextIO, clock: Clock) -> Iterator[SlurmRun | Skipped]:
    columns: list[str] = []
    delimiter = "|"
    for line_number, line in enumerate(stream, start=1):
        body = line.rstrip("\r\n")
        if not body.strip():
            continue
        if (not columns or "jobid" in body.lower()) and (
            header := columns_of(body)
        ):  # logs pasted together repeat their header, and may change their columns
            columns, delimiter = header
            _check(columns)
            continue
        if not columns:
            yield Skipped(line_number, "text before the header")
            continue
        fields = fields_of(body, delimiter)
        if len(fields) != len(columns):
            yield Skipped(line_number, _misfit(len(fields), len(columns), delimiter))
            continue
        row = dict(zip(columns, fields, strict=True))
        name = text(row, "JobID") or text(row, "JobIDRaw")
        if "." in name:
            yield Skipped(line_number, "a step of a job, not a job")
            continue
        try:
            yield _run(row, name, line_number, clock)
        except Unusable as reason:
            yield Skipped(line_number, str(reason))
    if not columns:
        raise InputError("not sacct output: no header", fix="give sacct -P without --noheader")


def _misfit(fields: int, columns: int, delimiter: str) -> str:
    why = f"{fields} fields, but {columns} columns in the header"
    if fields > columns and delimiter != "|":
        return f"{why} (the delimiter {delimiter!r} occurs inside a field: use sacct -P, which separates by bars)"
    return why


def _check(columns: list[str]) -> None:
    have = set(columns)
    missing = [] if have & {"JobID", "JobIDRaw"} else ["JobID"]
    missing += [name for name in ("Submit", "State") if name not in have]
    if not have & {"Elapsed", "ElapsedRaw"} and not {"Start", "End"} <= have:
        missing.append("ElapsedRaw")
    if not have & set(_GPU_COLUMNS):
        missing.append("AllocTRES")
    if missing:
        raise InputError(f"not sacct output: no column {', '.join(missing)}", fix="add these columns to sacct -P -o …")


def _run(row: Mapping[str, str], name: str, line: int, clock: Clock) -> SlurmRun:
    if not name:
        raise Unusable("JobID is empty")
    state = text(row, "State").split(" ")[0].rstrip("+")
    submit_s = _time_s(row, "Submit", clock)
    if submit_s is None:
        raise Unusable("Submit is unknown")
    start_s = _time_s(row, "Start", clock, not_before_s=submit_s)
    elapsed_s: float | None = None
    if text(row, "ElapsedRaw") not in _NOTHING:
        elapsed_s = seconds(row["ElapsedRaw"], "ElapsedRaw")
    elif text(row, "Elapsed") not in _NOTHING:
        elapsed_s = parse_elapsed_s(row["Elapsed"])
    return SlurmRun(
        line=line,
        id=name,
        submit_s=submit_s,
        start_s=start_s,
        end_s=_time_s(row, "End", clock, not_before_s=start_s),
        elapsed_s=elapsed_s,
        state=state,
        gpus=_gpus(row),
        asked=submitted_gpus(row.get("SubmitLine", ""))[1],
        limit_s=_limit_s(row),
        cluster=text(row, "Cluster"),
        user=text(row, "User"),
        account=text(row, "Account"),
        name=text(row, "JobName"),
        partition=text(row, "Partition"),
        qos=text(row, "QOS"),
        nodes=node_list(text(row, "NodeList")),
        raw_id=text(row, "JobIDRaw") if text(row, "JobIDRaw") != name else "",
    )


def _limit_s(row: Mapping[str, str]) -> float | None:
    """Return the time limit of a job; None if it has none (``UNLIMITED``) or it is not logged."""
    minutes, limit = text(row, "TimelimitRaw"), text(row, "Timelimit")
    if minutes.isascii() and minutes.isdigit():
        return 60.0 * number(minutes, "TimelimitRaw")
    return parse_elapsed_s(limit) if ":" in limit else None


def _time_s(row: Mapping[str, str], column: str, clock: Clock, *, not_before_s: float | None = None) -> float | None:
    value = text(row, column)
    if value in _NOTHING:
        return None
    if value.isascii() and value.isdigit() and len(value) > 8:  # SLURM_TIME_FORMAT=%s; 20240131 would be a date
        return seconds(value, column)
    return clock.epoch_s(value, column, not_before_s=not_before_s)


def _gpus(row: Mapping[str, str]) -> SlurmGpus:
    """Return the GPUs that were allocated to a job, or else the GPUs that it requested."""
    said = {column: _of_column(row, column) for column in _GPU_COLUMNS}
    allocated, requested = (said["AllocTRES"], said["AllocGRES"]), (said["ReqTRES"], said["ReqGRES"])
    return held_gpus(allocated, requested, submitted_gpus(row.get("SubmitLine", ""))[0])


def _of_column(row: Mapping[str, str], column: str) -> SlurmGpus:
    value = text(row, column)
    if value in _NOTHING:
        return SlurmGpus()
    return tres_gpus(parse_tres(value)) if column.endswith("TRES") else gres_gpus(value, _nodes(row))


def _nodes(row: Mapping[str, str]) -> float | None:
    """Return the number of nodes of a job, from the first column that has it; None if no column has it."""
    for column in ("NNodes", "AllocNodes", "ReqNodes"):
        if text(row, column) not in _NOTHING and (nodes := number(row[column], column)) >= 1:
            return nodes
    for column in ("AllocTRES", "ReqTRES"):
        if nodes := parse_tres(row.get(column, "")).get("node", 0.0):
            return nodes
    return node_count(row.get("NodeList", ""))


def _recognises(head: str) -> bool:
    return header_within(head) is not None


SACCT = Format(
    "sacct",
    "sacct -P output",
    _recognises,
    _entries,
    time_zone="UTC",
    notes=(
        "project is the account",
        "a requeued job counts once: its last run, from its first submission",
        "each element of an array and each part of a heterogeneous job is a job",
    ),
)
