"""Make rows of the table of observations from recordings, for each run that the user tells apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from powerflow.cost.catalogue import catalogue_types, gpu_type, is_known
from powerflow.cost.observation import ObservationRow
from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints
from powerflow.measured.point import check_told, observation_row, told_type
from powerflow.measured.recording import Quantity, Recording, merged, within
from powerflow.measured.source import MeasuredFile, MeasuredSource, counted
from powerflow.measured.steady import steady
from powerflow.measured.told import RunFacts, Told, moment
from powerflow.trace.fields import clip


def rows_of_recordings(
    files: Sequence[MeasuredFile], told: Told, runs: Sequence[RunFacts], hints: Hints
) -> Iterator[tuple[list[ObservationRow], MeasuredSource]]:
    """Yield the rows that recordings give, for each run, and the source."""
    chosen = [run for run in runs if not run.window and any(run.has(file.path) for file in files)]
    for file in files:
        if runs and not any(run.has(file.path) for run in chosen):
            raise InputError("no row of --runs is for it", where=file.name, fix="add a row with its name in files")
    for run in chosen or ([RunFacts("")] if files else []):
        yield _of_recording([file for file in files if run.has(file.path)], run, run.told.over(told), hints)


def _of_recording(
    files: Sequence[MeasuredFile], run: RunFacts, told: Told, hints: Hints
) -> tuple[list[ObservationRow], MeasuredSource]:
    name = ", ".join(file.name for file in files)
    where = f"{name} ({run.where})" if run.where else name
    recording = merged([(file.name, file.title, file.content) for file in files if isinstance(file.content, Recording)])
    if hints.step_metric is not None and recording.steps is None:
        raise InputError(f"has no {clip(hints.step_metric)} that counts", where=where, fix="correct --step-metric")
    kind = told_type(told, recording.gpu_type, where)
    facts: dict[str, object] = {
        "model": told.model,
        "gpu_type": kind,
        "gpus": told.gpus or len(recording.gpus),
        "local_batch": told.local_batch,
        "step_time_s": recording.steps is not None or told.steps or told.step_time_s,
    }
    check_told(facts, where)
    start_s, end_s = (
        moment(text, recording.base, hints.zone, run.where) if text else bound
        for text, bound in ((run.start, -math.inf), (run.end, math.inf))
    )
    try:
        found = steady(within(recording, start_s, end_s), told, where, _idle_w(kind))
    except InputError as error:  # what could not be read may be why
        lost = {why: count for why, count in recording.damaged.items() if count}
        what = f"{error.what}; left out are {counted(lost)}" if lost else error.what
        raise InputError(what, where=error.where, fix=error.fix, exit_code=error.exit_code) from None
    rows, notes = [], dict.fromkeys([*recording.notes, *found.notes])
    if told.gpus is None and not any(Quantity.BUSY in of for of in recording.gpus.values()):
        notes["all GPUs in it are taken as the run's; --gpus says how many it had"] = None
    for point in found.points:
        clock = "" if point.clock_mhz is None else f" at {point.clock_mhz:.0f} MHz"
        row, more = observation_row(replace(point, where=f"{where}{clock}"), told)
        rows.append(row)
        notes |= dict.fromkeys(more)
    title = ", ".join(dict.fromkeys(file.title for file in files))
    left_out = {why: count for why, count in {**recording.damaged, **found.left_out}.items() if count}
    return rows, MeasuredSource(name, title, len(rows), found.used, "intervals", left_out, tuple(notes))


def _idle_w(kind: str) -> float | None:
    """Return the idle draw of a GPU type in watts; None if it is not in the catalogue, where it was measured."""
    card = gpu_type(kind) if is_known(kind) else None
    return None if card is None or card not in catalogue_types() else card.idle_w
