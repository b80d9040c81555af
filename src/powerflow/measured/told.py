"""Read what a user says of measured runs, where the files do not: options, and a table of runs.

The table of runs is a CSV with a header and one run per row; every column is optional:

==================  ==============================================================================================
column              meaning
==================  ==============================================================================================
files               names of the measured files of this run, separated by ``;`` (empty: all files)
window              name of a window, run or project in these files (empty: all of them)
start, end          moments between which the run trained: seconds as in the files, or dates
model, gpu_type     as in the table of observations, also the following
gpus, nodes         how many GPUs and nodes the run had
local_batch         samples per GPU in one pass
accumulation        passes per iteration
clock_mhz           clock to which the GPUs were locked
power_limit_w       power limit of one GPU
step_time_s         seconds per iteration
steps               iterations during the run, or during one window
samples             samples of one epoch, for files that give seconds per epoch
==================  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from powerflow.errors import InputError
from powerflow.measured.recording import TimeBase
from powerflow.measured.values import Table
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, batch_size, clip, number
from powerflow.trace.opening import BROKEN_FILE, opened


@dataclass(frozen=True, slots=True)
class Told:
    """What a user says of a run; None for what the user does not say.

    Attributes:
        model, gpu_type, gpus, nodes, local_batch, accumulation, clock_mhz, power_limit_w, step_time_s: As in
            `powerflow.cost.observation.Observation`.
        steps: Iterations during the run, or during one window.
        samples: Samples of one epoch.
    """

    model: str | None = None
    gpu_type: str | None = None
    gpus: int | None = None
    nodes: int | None = None
    local_batch: int | None = None
    accumulation: int | None = None
    clock_mhz: float | None = None
    power_limit_w: float | None = None
    step_time_s: float | None = None
    steps: int | None = None
    samples: int | None = None

    def over(self, other: Told) -> Told:
        """Return what is said here, and else what is said there."""
        mine = {field.name: getattr(self, field.name) for field in fields(Told)}
        return Told(**{name: getattr(other, name) if value is None else value for name, value in mine.items()})


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A row of the table of runs.

    Attributes:
        where: Place of the row: ``runs.csv:3``.
        files: Names of its files; empty for all.
        window: Name of a window; "" for all.
        start, end: Moments as written; "" for no bound.
        told: Its other columns.
    """

    where: str
    files: tuple[str, ...] = ()
    window: str = ""
    start: str = ""
    end: str = ""
    told: Told = Told()

    def has(self, file: Path) -> bool:
        """Return True if a file belongs to this run."""
        return not self.files or file.name in self.files or str(file) in self.files


#: Options of ``powerflow fit`` by the fact that they give; other facts are given by the table of runs alone.
OPTIONS = {
    "model": "--model",
    "gpu_type": "--gpu-type",
    "gpus": "--gpus",
    "nodes": "--nodes",
    "local_batch": "--local-batch",
    "accumulation": "--accumulation",
    "step_time_s": "--step-time",
    "steps": "--steps",
    "samples": "--samples",
}
_WHOLE = ("gpus", "nodes", "local_batch", "accumulation", "steps", "samples")
_REAL = ("clock_mhz", "power_limit_w", "step_time_s")
_COLUMNS = ("files", "window", "start", "end", "model", "gpu_type", *_WHOLE, *_REAL)


def read_runs(path: Path) -> list[RunFacts]:
    """Read a table of runs.

    Raises:
        InputError: The file cannot be read, has an unknown column or no row, or a value is impossible.
    """
    try:
        with opened(path) as (stream, _):
            table = Table(stream)
            if unknown := [name for name in table.header if name not in _COLUMNS]:
                raise InputError(
                    f"unknown column {clip(unknown[0])}", where=f"{path}:1", fix=f"columns are {', '.join(_COLUMNS)}"
                )
            runs = [_run(row, f"{path}:{table.line}") for row in table]
    except InputError as error:
        raise InputError(error.what, where=error.where or str(path), fix=error.fix, exit_code=error.exit_code) from None
    except BROKEN_FILE as error:
        raise InputError(f"cannot be read ({error})", where=str(path), exit_code=1) from None
    if not runs or table.damaged:
        what = "has a row that does not fit the header" if table.damaged else "holds no run"
        raise InputError(what, where=str(path))
    return runs


def moment(text: str, base: TimeBase, zone: str | None, where: str) -> float:
    """Convert the start or the end of a run to seconds, in the time base of its recording.

    Raises:
        InputError: The text is neither a number nor a date, or a date in a recording that has no dates, or a date
            without a time zone where the recording has times since 1970.
    """
    try:
        seconds = number(text, "moment")
    except Unusable:
        pass
    else:
        if base is TimeBase.LOCAL:
            raise InputError(f"{clip(text)} is no date", where=where, fix="the file has dates; write them as it does")
        return seconds
    if base is TimeBase.RELATIVE:
        raise InputError(f"{clip(text)} is no number", where=where, fix="the file has no dates; give seconds")
    clock = Clock(zone or "UTC", assumed=zone is None)
    try:
        seconds = clock.epoch_s(text.replace("/", "-"), "moment")
    except Unusable:
        raise InputError(f"{clip(text)} is neither a date nor a number", where=where) from None
    if base is TimeBase.UNIX and zone is None and clock.notes():
        raise InputError(f"{clip(text)} has no time zone", where=where, fix="write 2026-01-31T12:00:00Z, or give --tz")
    return seconds


def _run(row: Mapping[str, str], where: str) -> RunFacts:
    def text(name: str) -> str:
        return row.get(name, "").strip()

    facts: dict[str, Any] = {name: text(name) or None for name in ("model", "gpu_type")}
    try:
        facts |= {name: batch_size(text(name), name) for name in _WHOLE}
        facts |= {name: _above_zero(text(name), name) for name in _REAL}
    except Unusable as why:
        raise InputError(str(why), where=where) from None
    files = tuple(name.strip() for name in text("files").split(";") if name.strip())
    return RunFacts(where, files, text("window"), text("start"), text("end"), Told(**facts))


def _above_zero(text: str, name: str) -> float | None:
    if not text:
        return None
    value = number(text, name)
    if value <= 0:
        raise Unusable(f"{name} is not above 0 ({clip(text)})")
    return value
