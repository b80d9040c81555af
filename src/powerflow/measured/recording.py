"""Define what readers of measured files return: recordings over time, and totals over spans.

A **recording** has readings of GPUs over time, and the step counter of the job, each with its own times. A **total** is
the energy and the duration of one span, such as a window or a whole run.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.device.plausible import MOST_W, PEAK_MARGIN
from powerflow.errors import InputError
from powerflow.trace.fields import LONGEST_S


class Quantity(StrEnum):
    """What a series of readings of a GPU measures."""

    POWER = "power"  # watts
    ENERGY = "energy"  # joules since some moment
    CLOCK = "clock"  # MHz at which the streaming multiprocessors ran
    LIMIT = "power limit"  # watts that the GPU may draw
    BUSY = "utilisation"  # share of the time in which the GPU worked, 0 to 1


#: Units for messages: how many of them are one of the quantity, and their name.
_UNITS = {
    Quantity.POWER: (1.0, "W"),
    Quantity.ENERGY: (1.0, "J"),
    Quantity.CLOCK: (1.0, "MHz"),
    Quantity.LIMIT: (1.0, "W"),
    Quantity.BUSY: (100.0, "%"),
}
#: The most that a reading of one GPU can be.
_MOST = {
    Quantity.POWER: PEAK_MARGIN * MOST_W,
    Quantity.ENERGY: 1e14,
    Quantity.CLOCK: 1e4,
    Quantity.LIMIT: PEAK_MARGIN * MOST_W,
    Quantity.BUSY: 1.01,
}


class TimeBase(StrEnum):
    """What the times of a recording count from."""

    UNIX = "since 1970"
    LOCAL = "local time"  # without a time zone
    RELATIVE = "since the start"


class Series(NamedTuple):
    """Readings over time: seconds, ascending without repeats, and finite values."""

    time_s: FloatArray
    value: FloatArray


class RecordedGpu(NamedTuple):
    """A GPU of a recording: the machine that has it ("" for the only machine of a file), and its name there."""

    host: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Readings over time, from one file or several.

    Attributes:
        gpus: For each GPU, its readings.
        base: What times count from.
        steps: Count of iterations of the job; None if it is not in the file.
        gpu_type: GPU type, as the file names it; "" if it does not.
        damaged: How many rows or readings could not be read, by reason.
        notes: What the user should know of the reading.
    """

    gpus: Mapping[RecordedGpu, Mapping[Quantity, Series]]
    base: TimeBase
    steps: Series | None = None
    gpu_type: str = ""
    damaged: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Total:
    """Energy and duration of one span.

    Attributes:
        names: Names by which a user may refer to it: of the window, of the run, of the project.
        where: Its place in the file.
        start_s: Start, seconds from any origin; nan if the file does not tell it.
        duration_s: How long it took, seconds.
        energy_j: Energy of all its GPUs, joules.
        gpus: How many GPUs were measured; None if the file does not tell it.
        model, gpu_type: As the file names them; "" if it does not.
        local_batch: Samples per GPU in one pass; None if the file does not tell it.
        limit_w: Power limit of one GPU; None if the file does not tell it.
        of_epoch: True if the span is one pass over the data set.
        machine: What the file tells of a machine whose GPUs were all measured; None if only the job's own GPUs were.
    """

    names: tuple[str, ...]
    where: str
    start_s: float
    duration_s: float
    energy_j: float
    gpus: int | None = None
    model: str = ""
    gpu_type: str = ""
    local_batch: int | None = None
    limit_w: float | None = None
    of_epoch: bool = False
    machine: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of one file.

    Attributes:
        spans: The totals, in the order of the file.
        damaged: How many rows could not be used, by reason.
        notes: What the user should know of them.
        steps_hint: What the tool says of steps per span, for a user who has to give them.
    """

    spans: tuple[Total, ...]
    damaged: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    steps_hint: str = ""


def series_of(pairs: Iterable[tuple[float, float]], most: float = sys.float_info.max) -> Series:
    """Return a series from (seconds, value), in any order; of several values at one time, the last one counts.

    Missing values (nan), and values below 0 or above ``most``, are left out, and so is infinity.
    """
    table = np.array([pair for pair in pairs if abs(pair[0]) <= LONGEST_S and 0 <= pair[1] <= most], float)
    if not len(table):
        return Series(np.zeros(0), np.zeros(0))
    time_s, value = np.round(table[:, 0], 6), table[:, 1]
    order = np.argsort(time_s, kind="stable")
    time_s, value = time_s[order], value[order]
    last = np.append(time_s[1:] != time_s[:-1], True)
    return Series(time_s[last], value[last])


def gpus_of(
    readings: Mapping[tuple[RecordedGpu, Quantity], Sequence[tuple[float, float]]],
) -> tuple[dict[RecordedGpu, dict[Quantity, Series]], dict[str, int]]:
    """Return the series of each GPU from its readings, (seconds, value), and how many are impossible, by reason.

    Impossible readings, such as DCGM's numbers for "blank", are left out, and so are quantities without a reading.
    """
    gpus: dict[RecordedGpu, dict[Quantity, Series]] = {}
    impossible: Counter[str] = Counter()
    for (gpu, quantity), pairs in readings.items():
        mine = gpus.setdefault(gpu, {})
        wrong = sum(not 0 <= value <= _MOST[quantity] for _, value in pairs if not math.isnan(value))
        impossible[_impossible(quantity)] += wrong
        series = series_of(pairs, _MOST[quantity])
        if len(series.time_s):
            mine[quantity] = series
    return gpus, {why: count for why, count in impossible.items() if count}


def _impossible(quantity: Quantity) -> str:
    scale, unit = _UNITS[quantity]
    return f"impossible readings of {quantity} (below 0 or above {scale * _MOST[quantity]:,.0f} {unit})"


def joined(first: Series, then: Series) -> Series:
    """Return two series of one quantity as one."""
    return series_of(
        zip(
            np.concatenate([first.time_s, then.time_s]).tolist(),
            np.concatenate([first.value, then.value]).tolist(),
            strict=True,
        )
    )


def merged(recordings: Sequence[tuple[str, str, Recording]]) -> Recording:
    """Return the recordings of one run as one.

    Args:
        recordings: (name of the file, title of its format, what was read); at least one. A GPU without a machine's name
            belongs to the machine of its file.

    Raises:
        InputError: The recordings cannot belong together: other time bases, two step counters, the same readings twice.
    """
    first_name, _, first = recordings[0]
    gpus: dict[RecordedGpu, dict[Quantity, Series]] = {}
    uuids: dict[str, RecordedGpu] = {}  # one GPU, although several files of a machine have it
    told_by: dict[Quantity, tuple[str, str]] = {}
    steps: tuple[str, Series] | None = None
    types: dict[str, str] = {}
    damaged: Counter[str] = Counter()
    for name, title, one in recordings:
        if one.base is not first.base:
            raise InputError(
                f"has times in {_said(one.base)}, {first_name} in {_said(first.base)}",
                where=name,
                fix="give --tz ZONE for local times"
                if TimeBase.LOCAL in (one.base, first.base)
                else "give one of them",
            )
        if one.steps is not None:
            if steps is not None:
                raise InputError(
                    f"has a step counter, and so has {steps[0]}", where=name, fix="give the one of the run"
                )
            steps = name, one.steps
        if one.gpu_type:
            types.setdefault(one.gpu_type, name)
        damaged.update(one.damaged)
        for gpu, readings in one.gpus.items():
            key = gpu if gpu.host else RecordedGpu(name, gpu.name)
            mine = gpus.setdefault(uuids.setdefault(gpu.name, key) if gpu.name.startswith("GPU-") else key, {})
            for quantity, series in readings.items():
                other, other_title = told_by.setdefault(quantity, (name, title))
                if other_title != title:
                    raise InputError(
                        f"has the {quantity} of GPUs, and so has {other}", where=name, fix="give one of them"
                    )
                mine[quantity] = joined(mine[quantity], series) if quantity in mine else series
    if len(types) > 1:
        raise InputError(f"GPUs of several types: {', '.join(types)}", where=", ".join(types.values()))
    return Recording(
        gpus,
        first.base,
        None if steps is None else steps[1],
        next(iter(types), ""),
        damaged,
        tuple(dict.fromkeys(note for _, _, one in recordings for note in one.notes)),
    )


def within(recording: Recording, start_s: float, end_s: float) -> Recording:
    """Return only the readings from one moment to another."""

    def cut(series: Series) -> Series:
        keep = (series.time_s >= start_s) & (series.time_s <= end_s)
        return Series(series.time_s[keep], series.value[keep])

    gpus: dict[RecordedGpu, dict[Quantity, Series]] = {}
    for gpu, of in recording.gpus.items():
        parts = {what: cut(series) for what, series in of.items()}
        gpus[gpu] = {what: part for what, part in parts.items() if len(part.time_s)}
    return replace(recording, gpus=gpus, steps=None if recording.steps is None else cut(recording.steps))


def _said(base: TimeBase) -> str:
    return {
        TimeBase.UNIX: "seconds since 1970",
        TimeBase.LOCAL: "local time",
        TimeBase.RELATIVE: "seconds since its start",
    }[base]
