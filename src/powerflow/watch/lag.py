"""Find out how late the readings of an exporter are, from jobs whose end is known.

An exporter such as dcgm-exporter reads its GPUs every 30 s, and gives the same values to whoever asks until it reads
them again: a reading may be half a minute old when it arrives. All GPUs of the exporter are late by the same time,
which hardly changes within hours. It shows where a job ends and nobody follows: the counter goes on rising for as long.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from powerflow.watch.attribution import PowerRange
from powerflow.watch.owners import Segment
from powerflow.watch.series import GpuSeries, intervals

#: Longest lag that is looked for, seconds.
MOST_S = 60.0
#: Fewest ends of jobs that tell the lag.
FEWEST = 5
#: A job must draw this many times the idle power, or its end does not show.
_CLEAR = 1.5


class LagSeen(NamedTuple):
    """How late the readings of a GPU seem to be.

    Attributes:
        end_s: End of the job that shows it, Unix seconds.
        lag_s: How late, seconds; negative if the job stopped drawing power before its end.
    """

    end_s: float
    lag_s: float


def lags(series: GpuSeries, owners: Sequence[Segment], power: PowerRange, most_s: float = MOST_S) -> list[LagSeen]:
    """Return how late the readings of one GPU seem to be at each end of a job that nobody follows.

    At such an end, let the job draw ``p`` and the idle GPU ``q``, both seen in undisturbed intervals; the counter rises
    by E from a reading ``a`` seconds before the end to one ``b`` seconds after it. If readings are late by ``s``, then
    E = p·(a + s) + q·(b − s), so s = (E − p·a − q·b) / (p − q).
    """
    if len(series) < 2:
        return []
    between = intervals(series, power.floor_w, power.peak_w)
    watts, time_s = between.energy_j / np.diff(series.time_s), series.time_s
    found = []
    for job, nobody in itertools.pairwise(owners):
        end_s = job.end_s
        if not job.jobs or nobody.jobs:
            continue
        first = int(np.searchsorted(time_s, end_s, side="right")) - 1
        last = int(np.searchsorted(time_s, end_s + most_s, side="left"))
        before = int(np.searchsorted(time_s, max(job.start_s, end_s - 10 * most_s), side="left"))
        after = int(np.searchsorted(time_s, nobody.end_s, side="right")) - 1
        if first - before < 2 or after - last < 1:
            continue
        p, q = float(watts[before:first][-5:].mean()), float(watts[last:after][:5].mean())
        if p < _CLEAR * q or not between.counted[before:after].all():
            continue
        rose_j = float(between.energy_j[first:last].sum())
        lag_s = (rose_j - p * (end_s - time_s[first]) - q * (time_s[last] - end_s)) / (p - q)
        found.append(LagSeen(end_s, float(lag_s)))
    return found


def typical(found: Collection[float]) -> float | None:
    """Return the lag that many ends of jobs agree on, seconds; None if there are fewer than `FEWEST`."""
    return None if len(found) < FEWEST else float(np.clip(np.median([*found]), 0.0, MOST_S))
