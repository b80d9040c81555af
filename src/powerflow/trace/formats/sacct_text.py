"""Slurm accounting as text: ``sacct --parsable2`` (or ``-p``), columns in any order, header required.

A good log:

    sacct -a -X -P -S 2024-01-01 -o JobID,JobName,User,Account,Submit,Start,End,ElapsedRaw,State,AllocTRES,ReqTRES
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TextIO

from powerflow.errors import InputError
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, number, seconds, text
from powerflow.trace.formats.format import Entry, Format
from powerflow.trace.formats.slurm import Run, jobs_of, parse_elapsed_s, parse_gres, parse_tres, tres_gpus
from powerflow.trace.record import Skipped

_NOTHING = {"", "Unknown", "None", "N/A", "(null)", "INVALID"}
_GPU_COLUMNS = ("AllocTRES", "ReqTRES", "AllocGRES", "ReqGRES")


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    return jobs_of(_runs(stream, clock))


def _runs(stream: TextIO, clock: Clock) -> Iterator[Run | Skipped]:
    columns: list[str] | None = None
    for line_number, line in enumerate(stream, start=1):
        body = line.rstrip("\r\n")
        if not body.strip():
            continue
        fields = body.split("|")
        if columns is None:
            columns = [name.strip() for name in fields]
            _check(columns)
            continue
        if fields == columns:
            continue  # logs pasted together repeat their header
        if len(fields) != len(columns):
            yield Skipped(line_number, f"{len(fields)} fields where the header names {len(columns)}")
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


def _check(columns: list[str]) -> None:
    have = set(columns)
    missing = [] if have & {"JobID", "JobIDRaw"} else ["JobID"]
    missing += [name for name in ("Submit", "State") if name not in have]
    if not have & {"Elapsed", "ElapsedRaw"} and not {"Start", "End"} <= have:
        missing.append("ElapsedRaw")
    if not have & set(_GPU_COLUMNS):
        missing.append("AllocTRES")
    if missing:
        raise InputError(f"not sacct output: no column {', '.join(missing)}", fix="give sacct -P -o … these columns")


def _run(row: Mapping[str, str], name: str, line: int, clock: Clock) -> Run:
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
    return Run(
        line=line,
        id=name,
        submit_s=submit_s,
        start_s=start_s,
        end_s=_time_s(row, "End", clock, not_before_s=start_s),
        elapsed_s=elapsed_s,
        state=state,
        gpus=_gpus(row),
        user=text(row, "User"),
        account=text(row, "Account"),
        name=text(row, "JobName"),
    )


def _time_s(row: Mapping[str, str], column: str, clock: Clock, *, not_before_s: float | None = None) -> float | None:
    value = text(row, column)
    if value in _NOTHING:
        return None
    if value.isascii() and value.isdigit() and len(value) > 8:  # SLURM_TIME_FORMAT=%s; 20240131 would be a date
        return seconds(value, column)
    return clock.epoch_s(value, column, not_before_s=not_before_s)


def _gpus(row: Mapping[str, str]) -> float:
    """GPUs allocated; else asked for."""
    nodes = number(row["NNodes"], "NNodes") if text(row, "NNodes") not in _NOTHING else 1.0
    for column in _GPU_COLUMNS:
        value = text(row, column)
        found = tres_gpus(parse_tres(value)) if column.endswith("TRES") else parse_gres(value, max(nodes, 1.0))
        if found > 0:
            return found
    return 0.0


def _recognises(head: str) -> bool:
    first = next((line for line in head.splitlines() if line.strip()), "")
    columns = {name.strip() for name in first.split("|")}
    return bool(columns & {"JobID", "JobIDRaw"}) and bool(columns & {"State", "Submit", "Elapsed", "ElapsedRaw"})


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
