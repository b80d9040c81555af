"""Read a log of jobs: detect its format, read it line by line, and record every skipped line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from powerflow.errors import InputError
from powerflow.trace.clock import Clock
from powerflow.trace.fields import clip
from powerflow.trace.formats import FORMATS, Format
from powerflow.trace.formats.unread import kind_not_read
from powerflow.trace.opening import BROKEN_FILE, opened
from powerflow.trace.record import Skipped, Trace, TraceJob

_HEAD_CHARS = 65_536


def read_trace(
    path: str | Path,
    format: str | None = None,
    *,
    tz: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Trace:
    """Read a log of jobs in any format of `powerflow.trace.formats`.

    The file may be compressed (`powerflow.trace.opening`). Only the jobs are kept in memory, not the text of the log.

    Args:
        path: The log file.
        format: Name of its format. None detects the format from the beginning of the file.
        tz: Time zone of dates without an offset (an IANA name, "UTC" or "+08:00"). None uses the default of the format.
        progress: Function that is called from time to time with the number of bytes that have been read.

    Returns:
        The jobs in order of submission, the skipped lines with the reasons, and the assumptions that were made.

    Raises:
        InputError: The file cannot be read, has an unknown format, does not have the given format, or contains no job.
    """
    where = str(path)
    try:
        with opened(Path(path)) as (head_stream, _):
            head = head_stream.read(_HEAD_CHARS)
        chosen = _format(head, format)
        clock = Clock(tz or chosen.time_zone or "UTC", assumed=tz is None)
        with opened(Path(path)) as (stream, raw):
            report = (lambda: progress(raw.tell())) if progress else None
            jobs, skipped, said = _collect(chosen.entries(stream, clock), report)
    except InputError as error:
        raise InputError(error.what, where=error.where or where, fix=error.fix, exit_code=error.exit_code) from None
    except BROKEN_FILE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"cannot be read ({reason})", where=where, exit_code=1) from None
    if not jobs:
        why = f" ({len(skipped)} lines skipped, the first, line {skipped[0].line}: {skipped[0].why})" if skipped else ""
        raise InputError(f"holds no job{why}", where=where, fix="; ".join(said))
    skipped.sort(key=lambda line: line.line)
    jobs.sort(key=lambda job: job.submit_s)  # stable: equal times keep their order in the file
    return Trace(where, chosen.name, tuple(jobs), tuple(skipped), (*chosen.notes, *said, *clock.notes()))


def _format(head: str, name: str | None) -> Format:
    if not head.strip():
        raise InputError("is empty")
    if "\x00" in head:
        raise InputError("is a binary file", fix="give a CSV, JSON, SWF or sacct log")
    if name is not None:
        for known in FORMATS:
            if known.name == name:
                return known
        raise InputError(f"unknown format {clip(name)}", where="--format", fix=f"give one of {_names()}")
    for known in FORMATS:
        if known.recognises(head):
            return known
    if (kind := kind_not_read(head)) is not None:
        raise InputError(f"is {kind[0]}", fix=kind[1])
    first = next(line for line in head.splitlines() if line.strip())
    raise InputError(
        f"is not a known log format (it begins with {clip(first.strip())})",
        fix=f"name the format with --format, one of {_names()}",
    )


def _names() -> str:
    return ", ".join(known.name for known in FORMATS)


def _collect(
    entries: Iterable[TraceJob | Skipped | str], report: Callable[[], None] | None
) -> tuple[list[TraceJob], list[Skipped], list[str]]:
    """Separate what the reader of a log yields into jobs, skipped lines and notes.

    A job with the same name as an earlier job gets a new name.
    """
    jobs: list[TraceJob] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    taken: dict[str, int] = {}
    repeated = 0
    for count, entry in enumerate(entries):
        if report is not None and count % 2048 == 0:
            report()
        if isinstance(entry, TraceJob):
            job = entry
            if job.id in taken:
                repeated += 1
                job = replace(job, id=_fresh(job.id, taken))
            taken[job.id] = 1
            jobs.append(job)
        elif isinstance(entry, Skipped):
            skipped.append(entry)
        else:
            notes.append(entry)
    if repeated:
        notes.append(f"{repeated} jobs have the name of an earlier one; they are renamed to name#2, name#3, …")
    return jobs, skipped, notes


def _fresh(name: str, taken: dict[str, int]) -> str:
    number = taken[name] + 1
    while f"{name}#{number}" in taken:
        number += 1
    taken[name] = number
    return f"{name}#{number}"
