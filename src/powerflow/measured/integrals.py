"""Integrate readings over intervals of time."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.device.plausible import MOST_W, PEAK_MARGIN
from powerflow.measured.recording import Series

#: Readings this many times further apart than usual have a gap between them.
GAP = 3.0
#: A counter of joules that rises faster was set, or belongs to another GPU.
_MOST_W = PEAK_MARGIN * MOST_W


def counter_faults(series: Series) -> dict[str, int]:
    """Return how many steps of a counter of joules are impossible, by reason; energy of these times is not known."""
    rose, apart_s = np.diff(series.value), np.diff(series.time_s)
    faults = {
        "steps back of an energy counter": int((rose < 0).sum()),
        f"rises of an energy counter by more than {_MOST_W:,.0f} W": int((rose > _MOST_W * (apart_s + 1.0)).sum()),
    }
    return {why: count for why, count in faults.items() if count}


def mean(series: Series, start_s: FloatArray, end_s: FloatArray) -> float:
    """Return the mean of a series over some intervals; nan if it has no reading in them."""
    integral = between(series, start_s, end_s, counter=False)
    known = np.isfinite(integral)
    lasts_s = float((end_s - start_s)[known].sum())
    return float(integral[known].sum()) / lasts_s if lasts_s else float("nan")


def between(series: Series, start_s: FloatArray, end_s: FloatArray, *, counter: bool) -> FloatArray:
    """Return, for each interval, by how much a counter rose, or the integral of a rate.

    It is nan where the readings do not reach over the interval, where a counter was reset, or a rate has a gap.
    """
    time_s, value = series
    if len(time_s) < 2:
        return np.full(len(start_s), np.nan)
    apart_s = np.diff(time_s)
    rose = np.diff(value) if counter else (value[1:] + value[:-1]) / 2 * apart_s
    broken = (rose < 0) | (rose > _MOST_W * (apart_s + 1.0)) if counter else apart_s > GAP * np.median(apart_s)
    total = np.append(0.0, np.cumsum(np.where(broken, 0.0, rose)))
    breaks = np.append(0, np.cumsum(broken))
    inside = (start_s >= time_s[0]) & (end_s <= time_s[-1])
    first = np.clip(np.searchsorted(time_s, start_s, side="right") - 1, 0, len(time_s) - 1)
    last = np.clip(np.searchsorted(time_s, end_s), 0, len(time_s) - 1)
    whole = inside & (breaks[last] == breaks[first])
    return np.where(whole, np.interp(end_s, time_s, total) - np.interp(start_s, time_s, total), np.nan)


def at(series: Series, time_s: FloatArray) -> FloatArray:
    """Return the values of a series at some moments; nan outside of its readings."""
    values: FloatArray = np.interp(time_s, series.time_s, series.value, left=np.nan, right=np.nan)
    return values
