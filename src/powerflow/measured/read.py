"""Read measured files of any format, and what the user says of them, as rows of the table of observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from powerflow.cost.observation import COLUMNS, REQUIRED, ObservationRow, observation_rows
from powerflow.errors import InputError
from powerflow.measured.formats import FORMATS, MeasuredFormat
from powerflow.measured.formats.format import Hints
from powerflow.measured.recording import Recording, Totals
from powerflow.measured.recording_rows import rows_of_recordings
from powerflow.measured.source import MeasuredFile, MeasuredSource
from powerflow.measured.told import OPTIONS, RunFacts, Told
from powerflow.measured.total_rows import rows_of_totals
from powerflow.measured.unread import kind_not_read
from powerflow.trace.fields import clip
from powerflow.trace.formats.format import header_of
from powerflow.trace.opening import BROKEN_FILE, opened

_HEAD_CHARS = 65_536


@dataclass(frozen=True, slots=True)
class MeasuredPoints:
    """Rows of the table of observations, and where they come from."""

    rows: tuple[ObservationRow, ...]
    sources: tuple[MeasuredSource, ...]


def read_measured(files: Sequence[Path], told: Told, runs: Sequence[RunFacts], hints: Hints) -> MeasuredPoints:
    """Read measured files.

    Args:
        files: Files of any format in `powerflow.measured.formats`, or tables of observations. Recordings belong to one
            run, unless ``runs`` says otherwise.
        told: What the user says of all runs.
        runs: Rows of the table of runs; they count before ``told``.
        hints: What the user says of the form of the files.

    Raises:
        InputError: A file cannot be read or has no known format, or a fact that a fit needs is missing; the message
            says which option gives it.
    """
    for run in runs:
        if lost := [
            name for name in run.files if not any(run.has(path) for path in files if name in (path.name, str(path)))
        ]:
            raise InputError(
                f"{clip(lost[0])} is not among the files", where=run.where, fix="give it to powerflow fit, too"
            )
    read = [_read(path, hints) for path in dict.fromkeys(files)]
    points = [file for file in read if not isinstance(file.content, Recording | Totals)]
    recordings = [file for file in read if isinstance(file.content, Recording)]
    totals = [file for file in read if isinstance(file.content, Totals)]
    _check_used(told, runs, hints, recordings, totals)
    rows: list[ObservationRow] = []
    sources: list[MeasuredSource] = []
    for file in points:
        found = file.content
        assert not isinstance(found, Recording | Totals)
        rows += found
        sources.append(MeasuredSource(file.name, file.title, len(found), len(found), "rows", {}, is_table=True))
    for made, source in [*rows_of_totals(totals, told, runs), *rows_of_recordings(recordings, told, runs, hints)]:
        rows += made
        sources.append(source)
    return MeasuredPoints(tuple(rows), tuple(sources))


def _read(path: Path, hints: Hints) -> MeasuredFile:
    where = str(path)
    try:
        with opened(path) as (stream, _):
            head = stream.read(_HEAD_CHARS)
        if _is_points(head):
            return MeasuredFile(path, "table of observations", observation_rows(path))
        chosen = _format(head)
        with opened(path) as (stream, _):
            return MeasuredFile(path, chosen.title, chosen.read(stream, hints))
    except InputError as error:
        place = error.where if error.where.startswith((where, "--")) else where
        raise InputError(error.what, where=place, fix=error.fix, exit_code=error.exit_code) from None
    except BROKEN_FILE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"cannot be read ({reason})", where=where, exit_code=1) from None


def _is_points(head: str) -> bool:
    return not head.strip() or len(set(header_of(head)) & set(REQUIRED)) > 1


def _format(head: str) -> MeasuredFormat:
    if "\x00" in head:
        raise InputError("is a binary file", fix="give CSV or JSON")
    for known in FORMATS:
        if known.recognises(head):
            return known
    if (kind := kind_not_read(head)) is not None:
        raise InputError(f"is {kind[0]}", fix=kind[1])
    first = next(line for line in head.splitlines() if line.strip())
    titles = dict.fromkeys(known.title for known in FORMATS)
    raise InputError(
        f"is no known kind of measurement (it begins with {clip(first.strip())})",
        fix=f"give a table of observations ({', '.join(COLUMNS[:4])}, …), or: {', '.join(titles)}",
    )


def _check_used(
    told: Told,
    runs: Sequence[RunFacts],
    hints: Hints,
    recordings: Sequence[MeasuredFile],
    totals: Sequence[MeasuredFile],
) -> None:
    """Refuse what the user says if nothing in the files needs it, or if it means something else in each of them."""
    kinds = {
        file.title if isinstance(file.content, Totals) else "readings over time": file
        for file in [*recordings, *totals]
    }
    if told.steps is not None and len(kinds) > 1:
        (one, first), (other, then) = list(kinds.items())[:2]
        raise InputError(
            f"{first.name} ({one}) and {then.name} ({other}) each have steps of their own",
            where=OPTIONS["steps"],
            fix="fit them one by one, or give each its steps by a row of --runs",
        )
    if not recordings and not totals:
        given = next((option for name, option in OPTIONS.items() if getattr(told, name) is not None), None)
        if given or runs:
            raise InputError("a table of observations says this itself", where=given or "--runs", fix="leave it out")
    if hints.step_metric is not None and not recordings:
        raise InputError("no file has step counters", where="--step-metric", fix="leave it out")
    if any(run.start or run.end for run in runs) and not recordings:
        raise InputError("start and end are for readings over time", where=runs[0].where, fix="leave them empty")
