"""What a format is: how it is recognised, and how its text becomes jobs.

A format's ``entries`` is a generator over the open log. It yields jobs, lines skipped with the reason, and notes (plain
strings), in the order met, holding no more of the log than it needs.
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
    """One kind of log.

    Attributes:
        name: What ``--format`` calls it.
        title: What a person calls it.
        recognises: Whether the beginning of a file (some 64 KiB of text) looks like it.
        entries: Reads an open log.
        time_zone: Zone of its dates where they name none; None if it holds no dates.
        notes: What reading it always assumes.
    """

    name: str
    title: str
    recognises: Callable[[str], bool]
    entries: Callable[[TextIO, Clock], Iterator[Entry]]
    time_zone: str | None = None
    notes: tuple[str, ...] = ()


def header_of(head: str) -> tuple[str, ...]:
    """Column names of a CSV file, from its beginning: its first line that is not blank."""
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
    """A format that is a CSV file with exactly these column names, in any order.

    Args:
        name: What ``--format`` calls it.
        title: What a person calls it.
        columns: The names its header has.
        job: Turns one row (column → text), its line and the clock into a job, or raises ``Unusable``.
        time_zone: Zone of its dates, if it has any.
        notes: What reading it always assumes.
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
    """Jobs and skipped lines of a CSV file, row by row.

    Raises:
        InputError: the header lacks columns the format needs (``lacks`` names them).
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
            continue  # blank lines carry nothing and hide nothing
        if header is None:
            header = tuple(name.strip() for name in row)
            if missing := lacks(header):
                raise InputError(f"not {title}: no column {', '.join(map(clip, sorted(missing)))}")
            continue
        if len(row) != len(header):
            yield Skipped(rows.line_num, f"{len(row)} fields where the header names {len(header)}")
            continue
        try:
            yield job(dict(zip(header, row, strict=True)), rows.line_num, clock)
        except Unusable as reason:
            yield Skipped(rows.line_num, str(reason))
