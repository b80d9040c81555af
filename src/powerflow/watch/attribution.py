"""Assign the energy of one GPU to the jobs that held it, with bounds for each.

Between two readings with the same owner there is no doubt: the difference of the counter is that owner's. Doubt lies
only in an interval in which the owner changes, at the first and last gap of a job. What the owners would draw there is
known from their nearest undisturbed intervals; the counter says what they drew together. The difference of both is
shared by how little is known of each: a GPU that nobody holds draws steadily, a job that starts may do anything. So a
start-up phase that draws little is not counted as training, as it would be if the job's mean power were drawn out to
its edges.

The parts of an interval always add up to the counter: each joule belongs to one job, or to nobody.

Bounds follow from the same sum. Of the energy of an interval a part has at least what is left when all others draw as
much as they ever do, and at most what is left when they draw as little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.watch.owners import Segment
from powerflow.watch.series import EnergyIntervals, GpuSeries, intervals

#: Number of undisturbed intervals from which the power of an owner at a change is taken.
_NEAR = 5
#: Relative error of that power: of a GPU that nobody holds, of a job that ends, and of a job that starts.
_IDLE_ERROR, _ENDING_ERROR, _STARTING_ERROR = 0.1, 0.3, 1.0
#: If the moment at which the owner changes is known to this many seconds or better, it is used as given.
_SHARP_S = 2.0
#: A GPU that nobody holds draws at most this many times its usual idle power (it stays warm for a while).
_MOST_IDLE = 1.5


class PowerRange(NamedTuple):
    """What one GPU can draw.

    Attributes:
        floor_w: Least power while it is on, watts.
        peak_w: Highest power, watts.
    """

    floor_w: float
    peak_w: float


@dataclass(frozen=True, slots=True)
class Share:
    """What one owner drew of one GPU in one time span.

    Attributes:
        jobs: Keys of the jobs; empty for a GPU that nobody held.
        start_s, end_s: The span, Unix seconds.
        energy_j: Best estimate, joules.
        low_j, high_j: Bounds, joules.
    """

    jobs: tuple[str, ...]
    start_s: float
    end_s: float
    energy_j: float
    low_j: float
    high_j: float


def attribute(
    series: GpuSeries,
    owners: Sequence[Segment],
    power: PowerRange,
    *,
    lag_s: float = 0.0,
    since_s: float = -math.inf,
    until_s: float = math.inf,
) -> list[Share]:
    """Assign the energy of one GPU to its owners.

    Args:
        series: Readings of the GPU, at least two.
        owners: Segments in order, without gaps, that cover the readings.
        power: What the GPU can draw.
        lag_s: How far the time of a reading may be off, seconds. An exporter reads its GPUs now and then, and is asked
            at other moments. It widens the bounds, not the estimate.
        since_s, until_s: Times of readings; only the energy between them is assigned. Readings outside help to know
            what the owners draw.

    Returns:
        A share for each segment between the two times, in order. All shares together are the energy between them.
    """
    between = intervals(series, power.floor_w, power.peak_w)
    within = (
        int(np.searchsorted(series.time_s, since_s, side="left")),
        int(np.searchsorted(series.time_s, until_s, side="right")) - 1,
    )
    sums = _sums(series.time_s, between, owners, power, 0.0, within)
    if lag_s > 0:
        wide = _sums(series.time_s, between, owners, power, lag_s, within)
        sums[:, 1] = np.minimum(sums[:, 1], wide[:, 1])
        sums[:, 2] = np.maximum(sums[:, 2], wide[:, 2])
    from_s, to_s = max(since_s, float(series.time_s[0])), min(until_s, float(series.time_s[-1]))
    return [
        Share(each.jobs, max(each.start_s, from_s), min(each.end_s, to_s), *map(float, total))
        for each, total in zip(owners, sums, strict=True)
        if min(each.end_s, to_s) > max(each.start_s, from_s)
    ]


def _sums(
    time_s: FloatArray,
    between: EnergyIntervals,
    owners: Sequence[Segment],
    power: PowerRange,
    lag_s: float,
    within: tuple[int, int],
) -> FloatArray:
    """Return ``[owners, 3]`` energy, lower and upper bound of each owner between two readings."""
    begin, end = within
    gaps = [(max(a, begin), min(b, end)) for a, b in _gaps(owners, time_s, lag_s) if a < end and b > begin]
    owner_of = _undisturbed(owners, time_s, gaps)
    known = _expected(owners, owner_of, between.energy_j / np.diff(time_s), power)
    sums = np.zeros((len(owners), 3))
    inside = owner_of[begin:end]
    alone = inside >= 0
    for column, values in enumerate(between[:3]):
        np.add.at(sums[:, column], inside[alone], values[begin:end][alone])
    for a, b in gaps:
        parts = [i for i, each in enumerate(owners) if each.start_s < time_s[b] and each.end_s > time_s[a]]
        total = [float(column[a:b].sum()) for column in between[:3]]
        sums[parts] += _divide(
            [owners[i] for i in parts], [known[i] for i in parts], time_s[a], time_s[b], total, power
        )
    return sums


def _gaps(owners: Sequence[Segment], time_s: FloatArray, lag_s: float) -> list[tuple[int, int]]:
    """Return the spans around changes of the owner in which readings do not tell who drew what.

    Returns:
        Pairs of readings' numbers, in order; spans that touch are one.
    """
    spans: list[tuple[int, int]] = []
    for before, after in itertools.pairwise(owners):
        moment = after.start_s
        if not time_s[0] < moment < time_s[-1]:
            continue
        late_s = min([lag_s, *((each.end_s - each.start_s) / 4 for each in (before, after) if each.jobs)])
        if after.slack_s > _SHARP_S:
            late_s = max(late_s, min(after.slack_s, before.end_s - before.start_s, after.end_s - after.start_s))
        a = int(np.searchsorted(time_s, moment - late_s, side="right")) - 1
        b = int(np.searchsorted(time_s, moment + late_s, side="left"))
        a, b = max(a, 0), min(b, len(time_s) - 1)
        if a == b:  # the change is just at a reading, and readings are not late
            continue
        if spans and a < spans[-1][1]:
            a = min(a, spans[-1][0])
            spans[-1] = (a, max(b, spans[-1][1]))
        else:
            spans.append((a, b))
    return spans


def _undisturbed(owners: Sequence[Segment], time_s: FloatArray, gaps: Sequence[tuple[int, int]]) -> IntArray:
    """Return the number of the owner of each interval between two readings; -1 in a gap."""
    starts = np.array([each.start_s for each in owners])
    found = np.clip(np.searchsorted(starts, time_s[:-1], side="right") - 1, 0, None)
    for a, b in gaps:
        found[a:b] = -1
    return found


class _Expected(NamedTuple):
    """Power of an owner at its first and at its last moments, and its highest power, watts; nan if not known."""

    first_w: float
    last_w: float
    most_w: float


def _expected(owners: Sequence[Segment], owner_of: IntArray, watts: FloatArray, power: PowerRange) -> list[_Expected]:
    """Return what each owner draws where nobody disturbs it. A GPU that nobody holds is much the same at all times."""
    nobody = np.isin(owner_of, [i for i, each in enumerate(owners) if not each.jobs])
    idle_w = float(watts[nobody].mean()) if nobody.any() else power.floor_w
    found = []
    for i, owner in enumerate(owners):
        own = watts[owner_of == i]
        if len(own):
            head, tail = float(own[:_NEAR].mean()), float(own[-_NEAR:].mean())
        else:
            head = tail = math.nan if owner.jobs else idle_w
        found.append(_Expected(head, tail, power.peak_w if owner.jobs else _MOST_IDLE * max(head, tail)))
    return found


def _divide(
    owners: Sequence[Segment],
    known: Sequence[_Expected],
    from_s: float,
    until_s: float,
    total: Sequence[float],
    power: PowerRange,
) -> FloatArray:
    """Divide the energy of a gap between its owners.

    Args:
        owners: Those who hold the GPU in the gap, in order.
        known: What each of them draws.
        from_s, until_s: Begin and end of the gap, Unix seconds.
        total: Energy of the gap, its lower and its upper bound, joules.
        power: What the GPU can draw.

    Returns:
        ``[owners, 3]`` energy, lower and upper bound of each owner.
    """
    total_j, low_j, high_j = total
    slack_s = max(each.slack_s for each in owners)
    least, most, expected, doubt = (np.empty(len(owners)) for _ in range(4))
    for i, (owner, draws) in enumerate(zip(owners, known, strict=True)):
        lasts_s = min(owner.end_s, until_s) - max(owner.start_s, from_s)
        ends = owner.start_s < from_s
        power_w = draws.last_w if ends else draws.first_w
        error = _ENDING_ERROR if ends else _STARTING_ERROR
        if not owner.jobs:
            error = _IDLE_ERROR
        elif math.isnan(power_w):
            power_w, error = (power.floor_w + power.peak_w) / 2, _STARTING_ERROR
        expected[i], doubt[i] = power_w * lasts_s, (error * power_w * lasts_s) ** 2
        most[i] = min(draws.most_w, power.peak_w) * min(lasts_s + 2 * slack_s, until_s - from_s)
        least[i] = power.floor_w * max(lasts_s - 2 * slack_s, 0.0)
    energy = _shared(expected, doubt, total_j)
    low = np.clip(low_j - (most.sum() - most), np.minimum(least, energy), energy)
    high = np.maximum(high_j - (least.sum() - least), energy)
    return np.stack([energy, low, high], axis=1)


def _shared(expected: FloatArray, doubt: FloatArray, total: float) -> FloatArray:
    """Return the most likely parts of a known total, none of them negative.

    Args:
        expected: Expected value of each part.
        doubt: Variance of each expectation.
        total: What the parts add up to.
    """
    free = np.ones(len(expected), bool)
    parts = np.zeros(len(expected))
    while free.any():
        rest = total - expected[free].sum()
        weight = doubt[free] / doubt[free].sum() if doubt[free].sum() > 0 else np.full(free.sum(), 1 / free.sum())
        parts[free] = expected[free] + rest * weight
        if not (parts < 0).any():
            return parts
        free &= parts > 0
        parts[~free] = 0.0
    return np.full(len(expected), total / len(expected))
