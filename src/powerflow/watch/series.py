"""Hold the readings of one GPU over time, and turn them into energy per interval, with bounds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from powerflow.arrays import FloatArray

#: The counter may run this much ahead of the highest power of its GPU before a step is taken for a fault.
_MARGIN = 1.2
#: Power readings are integrated with this relative error, besides what the power may do between two readings.
_POWER_ERROR = 0.05
#: An interval that lasts this many times the usual one is a gap in the readings.
_LONG = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class GpuSeries:
    """Readings of one GPU, as columns of M values. A value that was not reported is nan.

    Attributes:
        time_s: When each reading was taken, Unix seconds, ascending without repeats.
        energy_j: Energy counter of the GPU, joules since some moment (the driver's start).
        power_w: Power, watts.
        clock_mhz: Clock of the streaming multiprocessors, MHz.
        utilisation: Share of the time in which any kernel ran, 0 to 1.
        sm_active: Share of the time in which a streaming multiprocessor had work, mean over all of them, 0 to 1.
        memory_active: Share of the time in which the GPU's memory moved data, 0 to 1.
    """

    time_s: FloatArray
    energy_j: FloatArray
    power_w: FloatArray
    clock_mhz: FloatArray
    utilisation: FloatArray
    sm_active: FloatArray
    memory_active: FloatArray

    def __len__(self) -> int:
        """Return the number of readings."""
        return len(self.time_s)

    def take(self, keep: slice | FloatArray | np.ndarray) -> GpuSeries:
        """Return only those readings that a slice, a mask or indices select."""
        return GpuSeries(*(getattr(self, column.name)[keep] for column in fields(self)))


def series_of(time_s: FloatArray, **columns: FloatArray) -> GpuSeries:
    """Return a series of these columns; a column that is not given is nan throughout.

    Readings need not be in order. Of several readings at the same moment, the last one given counts.
    """
    order = np.argsort(time_s, kind="stable")
    at = np.asarray(time_s, float)[order]
    last = np.append(at[1:] != at[:-1], True) if len(at) else np.zeros(0, bool)
    missing = np.full(len(at), np.nan)
    names = [column.name for column in fields(GpuSeries) if column.name != "time_s"]
    values = {name: np.asarray(columns[name], float)[order] if name in columns else missing for name in names}
    return GpuSeries(at[last], **{name: value[last] for name, value in values.items()})


def joined(first: GpuSeries, then: GpuSeries) -> GpuSeries:
    """Return two series of one GPU as one."""
    names = [column.name for column in fields(GpuSeries)]
    columns = {name: np.concatenate([getattr(first, name), getattr(then, name)]) for name in names}
    return series_of(columns.pop("time_s"), **columns)


def without_repeats(series: GpuSeries) -> GpuSeries:
    """Drop readings in which the exporter has only repeated its last values.

    An exporter that reads its GPUs every 30 s and is asked every 10 s gives each value three times. The energy counter
    of a GPU that draws power always moves, so a reading with the same counter says nothing new about its own moment.
    """
    if len(series) < 2:
        return series
    same = np.append(False, series.energy_j[1:] == series.energy_j[:-1])
    return series.take(~same) if same.any() else series


class EnergyIntervals(NamedTuple):
    """Energy between each two readings of a series: columns of M − 1 values.

    Attributes:
        energy_j: Best estimate, joules.
        low_j, high_j: Bounds, joules. They are equal where the counter tells the energy.
        counted: True where the counter tells the energy; False where it was reset or is not reported.
    """

    energy_j: FloatArray
    low_j: FloatArray
    high_j: FloatArray
    counted: np.ndarray


def intervals(series: GpuSeries, floor_w: float, peak_w: float) -> EnergyIntervals:
    """Return the energy between each two readings.

    The difference of the counter is used where it is possible: it is not negative, and not more than the GPU can draw.
    Elsewhere the counter was reset (the driver or the node was started again), or is not reported. Then power is
    integrated with the trapezoidal rule; the counter after the reset is a lower bound.

    Args:
        series: Readings of one GPU.
        floor_w: Power that the GPU draws at least while it is on, watts.
        peak_w: Power that the GPU draws at most, watts.
    """
    lasts_s = np.diff(series.time_s)
    counter, power = series.energy_j, series.power_w
    step = np.diff(counter)
    most = peak_w * lasts_s
    with np.errstate(invalid="ignore"):
        counted = (step >= 0) & (step <= _MARGIN * most)
        was_reset = (step < 0) & (counter[1:] <= _MARGIN * most)
    known = np.where(np.isnan(power[:-1]), power[1:], power[:-1])
    other = np.where(np.isnan(power[1:]), power[:-1], power[1:])
    integral = np.where(np.isnan(known), (floor_w + peak_w) / 2, (known + other) / 2) * lasts_s
    spread = np.where(np.isnan(known), np.inf, np.abs(other - known) / 2 * lasts_s + _POWER_ERROR * integral)
    if len(lasts_s):  # much may have happened in a long gap: a node that boots draws nothing for a while
        spread[lasts_s > _LONG * np.median(lasts_s)] = np.inf
    least = np.where(was_reset, counter[1:], 0.0)
    low = np.clip(np.maximum(integral - spread, least), 0.0, most)
    high = np.clip(integral + spread, low, np.maximum(most, low))
    estimate = np.clip(integral, low, high)
    return EnergyIntervals(
        np.where(counted, step, estimate), np.where(counted, step, low), np.where(counted, step, high), counted
    )
