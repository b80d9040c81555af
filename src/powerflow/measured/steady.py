"""Find steady training in a recording, and what it took: seconds per iteration, watts, clock.

1. Time is cut into intervals, and idle ones are left out (`powerflow.measured.intervals`).
2. Intervals are grouped by the clock at which the GPUs ran, or by their power limit if the clock was not read. Each
   group is one configuration.
3. Pauses, jumps and warm-up are left out of each configuration. Those with too few intervals are left out.

Seconds per iteration are all seconds of a group divided by all its iterations. Watts come from the energy counters
where there are any, else from the watts that were read, integrated over the same intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.measured.integrals import between, counter_faults, mean
from powerflow.measured.intervals import (
    BUSY,
    FEWEST,
    LeftOut,
    RunIntervals,
    busy_intervals,
    counted_intervals,
    leave_out_unsteady,
)
from powerflow.measured.point import Point
from powerflow.measured.recording import Quantity, RecordedGpu, Recording, Series
from powerflow.measured.source import counted
from powerflow.measured.told import Told

#: Clocks that differ by less than this factor, and limits by less than the second, are one configuration.
CLOCK_STEP, LIMIT_STEP = 1.04, 1.01
#: Share of an interval in which the clock must be that of its configuration.
_MOSTLY = 0.9
#: Share of the training that readings must cover.
_COVERED = 0.5
#: Energy counter and watts agree within this factor, or the unit of one of them is wrong.
_AGREE = 1.5


@dataclass(frozen=True, slots=True)
class Steady:
    """Steady training in a recording.

    Attributes:
        points: One for each configuration, by falling clock.
        used: How many intervals they are made of.
        left_out: How many intervals were left out, and how many steps of energy counters, by reason.
        notes: What the user should know.
    """

    points: tuple[Point, ...]
    used: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...]


def steady(recording: Recording, told: Told, where: str, idle_w: float | None) -> Steady:
    """Return the steady training of a recording.

    Args:
        recording: Readings of the GPUs of one run, and its step counter.
        told: What the user says of the run. Its ``step_time_s`` or ``steps`` stands for a counter.
        where: Place for messages.
        idle_w: Watts of an idle GPU of this type; None if they are not known.

    Raises:
        InputError: There is too little steady training, readings and counter do not overlap, or the user's word
            contradicts them.
    """
    if recording.steps is not None and (told.steps or told.step_time_s):
        raise InputError("has a step counter", where=where, fix="leave out --steps and --step-time")
    found = (
        busy_intervals(recording, where, idle_w)
        if recording.steps is None
        else counted_intervals(recording.steps, where)
    )
    notes: dict[str, None] = {}
    kept = found.kept
    gpus = _gpus_at_work(recording, found.start_s[kept], found.end_s[kept], told, notes)
    recording = replace(recording, gpus=gpus)
    labels = _configurations(found, recording)
    leave_out_unsteady(found, labels, recording)
    left_out = Counter(str(why) for why in found.why[~found.kept])
    for of in gpus.values():
        left_out.update(counter_faults(of[Quantity.ENERGY]) if Quantity.ENERGY in of else {})
    if not found.kept.any():
        raise InputError(f"has no steady training; of its intervals are {counted(left_out)}", where=where)
    names = np.unique(labels[found.kept])
    if len(names) > 1 and recording.steps is None:
        what = f"the GPUs ran at {len(names)} clocks or power limits, and there is no step counter"
        raise InputError(what, where=where, fix="give a row of --runs for each, with start, end and step_time_s")
    points = [_point(found, found.kept & (labels == name), recording, told, where, notes) for name in names]
    points.sort(key=lambda point: (-(point.clock_mhz or 0.0), -(point.limit_w or 0.0)))
    return Steady(tuple(points), int(found.kept.sum()), left_out, tuple(notes))


def _configurations(found: RunIntervals, recording: Recording) -> IntArray:
    """Return a number for each interval: intervals with the same one had the same clock (or power limit).

    Intervals in which it changed are left out.
    """
    labels = np.zeros(len(found.why), np.int64)
    for what, step in ((Quantity.CLOCK, CLOCK_STEP), (Quantity.LIMIT, LIMIT_STEP)):
        every = [of[what] for of in recording.gpus.values() if what in of]
        kept = found.kept
        near = [_inside(series.time_s, found.start_s[kept], found.end_s[kept]) for series in every]
        values = np.unique([value for s, keep in zip(every, near, strict=True) for value in s.value[keep]])
        if not len(values):
            continue
        breaks = np.flatnonzero(values[1:] > step * values[:-1])
        lows, highs = values[np.append(0, breaks + 1)], values[np.append(breaks, len(values) - 1)]
        share = np.zeros((len(lows), len(labels)))
        for series in every:
            place = np.minimum(np.searchsorted(highs, series.value), len(highs) - 1)
            belongs = (series.value >= lows[place]) & (series.value <= highs[place])
            share += _shares(series.time_s, np.where(belongs, place, -1), len(lows), found) / len(every)
        labels = share.argmax(axis=0)
        found.why[kept & (share.max(axis=0) < _MOSTLY)] = LeftOut.CHANGE
        break  # where the clock was read, it tells what a limit did
    return labels


def _inside(time_s: FloatArray, start_s: FloatArray, end_s: FloatArray) -> BoolArray:
    """Return True for each moment that lies in one of the intervals, which are in order."""
    place = np.searchsorted(start_s, time_s, side="right") - 1
    return (place >= 0) & (time_s <= end_s[np.maximum(place, 0)]) if len(start_s) else np.zeros(len(time_s), bool)


def _shares(time_s: FloatArray, label: IntArray, labels: int, found: RunIntervals) -> FloatArray:
    """Return the share of readings with each label in each interval: (labels, intervals).

    Where there is no reading in an interval, the ones before and after it count.
    """
    first, last = np.searchsorted(time_s, found.start_s), np.searchsorted(time_s, found.end_s, side="right")
    empty = first == last
    first = np.maximum(np.where(empty, first - 1, first), 0)
    last = np.minimum(np.where(empty, last + 1, last), len(time_s))
    ones = label[None, :] == np.arange(labels)[:, None]
    before = np.concatenate([np.zeros((labels, 1)), np.cumsum(ones, axis=1)], axis=1)
    shares: FloatArray = (before[:, last] - before[:, first]) / np.maximum(last - first, 1)
    return shares


def _point(
    found: RunIntervals, mine: BoolArray, recording: Recording, told: Told, where: str, notes: dict[str, None]
) -> Point:
    """Return what some intervals of steady training took; add to ``notes`` what the user should know."""
    inner = _inner(mine)
    start_s, end_s = found.start_s[inner], found.end_s[inner]
    gpus = recording.gpus
    watts = [_watts(gpu, of, start_s, end_s, where) for gpu, of in gpus.items()]
    clocks = [mean(of[Quantity.CLOCK], start_s, end_s) for of in gpus.values() if Quantity.CLOCK in of]
    limits = [mean(of[Quantity.LIMIT], start_s, end_s) for of in gpus.values() if Quantity.LIMIT in of]
    return Point(
        where=where,
        step_time_s=_step_time(found, mine, told, notes),
        power_w=sum(watts) if watts else None,
        gpus=len(gpus) or None,
        nodes=len({gpu.host for gpu in gpus}) or None,
        gpu_type=recording.gpu_type,
        clock_mhz=_known(clocks),
        limit_w=_known(limits),
    )


def _inner(mine: BoolArray) -> BoolArray:
    """Return those intervals that have neighbours of the same kind, if there are enough: readings at edges mix."""
    padded = np.concatenate([[False], mine, [False]])
    inner: BoolArray = mine & padded[:-2] & padded[2:]
    return inner if inner.sum() >= FEWEST else mine


def _step_time(found: RunIntervals, mine: BoolArray, told: Told, notes: dict[str, None]) -> float | None:
    if np.isfinite(found.steps).all():
        return float(found.lasts_s[mine].sum() / found.steps[mine].sum())
    if told.step_time_s is not None or told.steps is None:
        return told.step_time_s
    at_work = mine | (found.why == LeftOut.WARM)
    if at_work.sum() > mine.sum():
        notes["the steps that are said are divided over warm-up too; --step-time gives the time of a warm step"] = None
    return float(found.lasts_s[at_work].sum() / told.steps)


def _gpus_at_work(
    recording: Recording, start_s: FloatArray, end_s: FloatArray, told: Told, notes: dict[str, None]
) -> dict[RecordedGpu, Mapping[Quantity, Series]]:
    """Return the GPUs without those that idle all the time, unless the user says that all belong to the run."""
    gpus = dict(recording.gpus)
    if len(gpus) == told.gpus:
        return gpus
    shares = {gpu: mean(of[Quantity.BUSY], start_s, end_s) for gpu, of in gpus.items() if Quantity.BUSY in of}
    idle = [gpu for gpu, share in shares.items() if share < BUSY]
    if idle and len(idle) < len(gpus):
        notes[f"idle GPUs are left out: {', '.join(gpu.name for gpu in idle)}"] = None
        return {gpu: of for gpu, of in gpus.items() if gpu not in idle}
    return gpus


def _watts(
    gpu: RecordedGpu, of: Mapping[Quantity, Series], start_s: FloatArray, end_s: FloatArray, where: str
) -> float:
    """Return the mean watts of a GPU in some intervals, from its energy counter, else from its watts.

    Raises:
        InputError: Its readings cover too little of the intervals, or counter and watts contradict each other.
    """
    lasts_s = end_s - start_s
    found: dict[Quantity, float] = {}
    for what in (Quantity.ENERGY, Quantity.POWER):
        if what not in of:
            continue
        joules = between(of[what], start_s, end_s, counter=what is Quantity.ENERGY)
        known = np.isfinite(joules)
        if lasts_s[known].sum() >= _COVERED * lasts_s.sum():
            found[what] = float(joules[known].sum() / lasts_s[known].sum())
    if not found:
        why = f"the watts of GPU {gpu.name} cover less than {_COVERED:.0%} of the training"
        raise InputError(why, where=where, fix="give readings of the same time as the steps, of the run's GPUs alone")
    if len(found) == 2 and max(found.values()) > _AGREE * min(found.values()):
        energy_w, power_w = found[Quantity.ENERGY], found[Quantity.POWER]
        why = f"GPU {gpu.name} draws {power_w:.3g} W, but its energy counter says {energy_w:.3g} W"
        raise InputError(why, where=where, fix="give one of them, in the unit that its name says")
    return next(iter(found.values()))


def _known(values: list[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None
