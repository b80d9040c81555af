"""Define a log format: how it is recognised, and how its text is converted to jobs.

The function ``entries`` of a format is a generator over the open log. It yields jobs, skipped lines with the reason,
and notes (plain strings), in the order of the file. It keeps only a small part of the log in memory.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO

from powerflow.errors import InputError
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, clip
from powerflow.trace.record import Skipped, TraceJob

Entry = TraceJob | Skipped | str
RowToJob = Callable[[Mapping[str, str], int, Clock], TraceJob]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of log that can be read.

    Attributes:
        name: Name of the format for ``--format``.
        title: Name of the format in sentences.
        recognises: Function that returns True if the first 64 KiB of a file look like this format.
        entries: Function that reads an open log, and yields its jobs, skipped lines and notes.
        time_zone: Time zone of dates without an offset; None if the format has no such dates.
        notes: Assumptions about this format, as sentences for the user.
    """

    name: str
    title: str
    recognises: Callable[[str], bool]
    entries: Callable[[TextIO, Clock], Iterator[Entry]]
    time_zone: str | None = None
    notes: tuple[str, ...] = ()


def header_of(head: str) -> tuple[str, ...]:
    """Return the column names of a CSV file: the fields of its first line that is not blank."""
    for line in head.splitlines():
        if line.strip():
            return _columns(line)
    return ()


def _columns(line: str) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(csv.reader([line]), []))
    except csv.Error:
        return ()


def csv_format(
    name: str,
    title: str,
    columns: tuple[str, ...],
    job: RowToJob,
    *,
    time_zone: str | None = None,
    notes: tuple[str, ...] = (),
) -> Format:
    """Return a format for CSV files that have exactly these columns, in any order.

    Args:
        name: Name of the format for ``--format``.
        title: Name of the format in sentences.
        columns: Names of the columns.
        job: Function that turns a row (column → text), its line number and the clock into a job, or raises `Unusable`.
        time_zone: Time zone of dates without an offset; None if the format has no such dates.
        notes: Assumptions about this format, as sentences for the user.
    """
    wanted = frozenset(columns)

    def entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
        return csv_entries(stream, clock, title, lambda header: wanted - set(header), job)

    return Format(name, title, lambda head: frozenset(header_of(head)) == wanted, entries, time_zone, notes)


def csv_entries(
    stream: TextIO,
    clock: Clock,
    title: str,
    lacks: Callable[[tuple[str, ...]], frozenset[str] | set[str]],
    job: RowToJob,
) -> Iterator[Entry]:
    """Yield the jobs and the skipped lines of a CSV file, row by row.

    Args:
        stream: The open file.
        clock: Converts dates to seconds.
        title: Name of the format, for error messages.
        lacks: Function that takes the column names of the file, and returns the names of missing columns.
        job: Function that turns a row (column → text), its line number and the clock into a job, or raises `Unusable`.

    Raises:
        InputError: The file lacks a column that the format needs.
    """
    header: tuple[str, ...] | None = None
    rows = csv.reader(stream)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Skipped(rows.line_num, f"not a CSV row ({error})")
            continue
        if row is None:
            break
        if not any(row):
            continue  # a blank line is not an error
        if header is None:
            header = tuple(name.strip() for name in row)
            if missing := lacks(header):
                raise InputError(f"not {title}: no column {', '.join(map(clip, sorted(missing)))}")
            continue
        if len(row) != len(header):
            yield Skipped(rows.line_num, f"{len(row)} fields, but {len(header)} columns in the header")
            continue
        try:
            yield job(dict(zip(header, row, strict=True)), rows.line_num, clock)
        except Unusable as reason:
            yield Skipped(rows.line_num, str(reason))
