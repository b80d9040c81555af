"""Add up what each job does with the GPUs that it holds: time, idle time, clock and activity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from powerflow.arrays import BoolArray, FloatArray
from powerflow.units import HOUR_S
from powerflow.watch.attribution import Share
from powerflow.watch.owners import Segment
from powerflow.watch.series import GpuSeries

#: A held GPU counts as idle if it has been so for this long, seconds.
IDLE_AFTER_S = 600.0
#: A GPU is idle while no kernel runs on it: its utilisation is below this.
_IDLE_UTILISATION = 0.01
#: Where utilisation is not reported, a GPU is idle below this many times its idle power.
_IDLE_POWER = 1.25


def by_hour(start_s: float, end_s: float) -> Iterator[tuple[int, float]]:
    """Yield each hour of the epoch (Unix seconds // 3600) that a time span touches, and its share of the span."""
    hour = int(start_s // HOUR_S)
    while hour * HOUR_S < end_s:
        yield hour, (min(end_s, (hour + 1) * HOUR_S) - max(start_s, hour * HOUR_S)) / (end_s - start_s)
        hour += 1


@dataclass(slots=True)
class JobUse:
    """What a job has drawn and used, over all its GPUs.

    Attributes:
        energy_j, low_j, high_j: Energy and its bounds, joules.
        gpu_s: GPU-seconds for which there are readings.
        idle_s, idle_j: GPU-seconds in which a GPU was held idle for `IDLE_AFTER_S` and more, and their energy.
        judged_s: GPU-seconds in which it is known whether the GPU was idle.
        clock, utilisation, sm_active, memory_active: Sums over time (value × seconds), and the seconds with a value.
        hours: Energy by hour of the epoch (Unix seconds // 3600), joules.
        from_s: When the first reading was taken, Unix seconds.
    """

    energy_j: float = 0.0
    low_j: float = 0.0
    high_j: float = 0.0
    gpu_s: float = 0.0
    idle_s: float = 0.0
    idle_j: float = 0.0
    judged_s: float = 0.0
    clock: tuple[float, float] = (0.0, 0.0)
    utilisation: tuple[float, float] = (0.0, 0.0)
    sm_active: tuple[float, float] = (0.0, 0.0)
    memory_active: tuple[float, float] = (0.0, 0.0)
    hours: dict[int, float] = field(default_factory=dict)
    from_s: float = math.inf

    def add_share(self, share: Share) -> None:
        """Add a share of this job; of jobs that share a GPU, each has an equal part, and nobody knows better."""
        n = max(len(share.jobs), 1)
        self.energy_j += share.energy_j / n
        self.low_j += share.low_j if n == 1 else 0.0
        self.high_j += share.high_j
        self.gpu_s += (share.end_s - share.start_s) / n
        self.from_s = min(self.from_s, share.start_s)
        for hour, part in by_hour(share.start_s, share.end_s):
            self.hours[hour] = self.hours.get(hour, 0.0) + share.energy_j / n * part

    def mean(self, name: str) -> float:
        """Return the mean of ``clock``, ``utilisation``, ``sm_active`` or ``memory_active``; nan if not reported."""
        total, seconds = getattr(self, name)
        return total / seconds if seconds else math.nan


@dataclass(slots=True)
class IdleRun:
    """How long a GPU has been idle in the hands of the same jobs.

    Attributes:
        jobs: These jobs.
        lasts_s, energy_j: How long, seconds, and what it drew, joules.
    """

    jobs: tuple[str, ...] = ()
    lasts_s: float = 0.0
    energy_j: float = 0.0


_ACTIVITY = {
    "clock": "clock_mhz",
    "utilisation": "utilisation",
    "sm_active": "sm_active",
    "memory_active": "memory_active",
}


def add_activity(
    uses: dict[str, JobUse],
    series: GpuSeries,
    owners: Sequence[Segment],
    watts: FloatArray,
    idle_w: float,
    run: IdleRun,
    since_s: float,
    until_s: float,
) -> None:
    """Add what jobs did with one GPU, in the intervals that lie wholly in their hands.

    Args:
        uses: What each job has used so far; it is changed.
        series: Readings of the GPU.
        owners: Who held it.
        watts: Mean power between each two readings, watts.
        idle_w: What this type of GPU draws when it is idle; nan if it is not known.
        run: How long it has been idle; it is changed.
        since_s, until_s: Times of readings; what lies between them is added.
    """
    time_s = series.time_s
    for owner in owners:
        if owner.end_s <= since_s or owner.start_s >= until_s:
            continue
        first = int(np.searchsorted(time_s, max(owner.start_s, since_s), side="left"))
        last = int(np.searchsorted(time_s, min(owner.end_s, until_s), side="right")) - 1
        if run.jobs != owner.jobs:
            run.jobs, run.lasts_s, run.energy_j = owner.jobs, 0.0, 0.0
        if last <= first or not owner.jobs:
            continue
        lasts_s = np.diff(time_s[first : last + 1])
        for name, column in _ACTIVITY.items():
            values = getattr(series, column)[first + 1 : last + 1]
            known = ~np.isnan(values)
            if known.any():
                for job in owner.jobs:
                    total, seconds = getattr(uses[job], name)
                    more = float(np.sum(values[known] * lasts_s[known])), float(lasts_s[known].sum())
                    setattr(uses[job], name, (total + more[0], seconds + more[1]))
        _add_idle(uses, owner.jobs, series.utilisation[first : last + 1], watts[first:last], lasts_s, idle_w, run)


def is_idle(utilisation: FloatArray, power_w: FloatArray, idle_w: float) -> BoolArray:
    """Return where a GPU was idle: by its utilisation (0 to 1), or by its power (watts) where that is not reported.

    Args:
        utilisation, power_w: Values of one shape.
        idle_w: What this type of GPU draws when it is idle, watts; where it is not known (nan), power says nothing.
    """
    idle: BoolArray = np.where(np.isnan(utilisation), power_w < _IDLE_POWER * idle_w, utilisation < _IDLE_UTILISATION)
    return idle


def _add_idle(
    uses: dict[str, JobUse],
    jobs: tuple[str, ...],
    utilisation: FloatArray,
    watts: FloatArray,
    lasts_s: FloatArray,
    idle_w: float,
    run: IdleRun,
) -> None:
    busiest = np.fmax(utilisation[:-1], utilisation[1:])
    idle = is_idle(busiest, watts, idle_w)
    judged = ~np.isnan(busiest) | (not math.isnan(idle_w))
    n = len(jobs)
    for idles, is_judged, power_w, seconds in zip(idle, judged, watts, lasts_s, strict=True):
        was_long = run.lasts_s >= IDLE_AFTER_S
        if idles:
            run.lasts_s += seconds
            run.energy_j += power_w * seconds
        else:
            run.lasts_s = run.energy_j = 0.0
        more = (seconds, power_w * seconds) if was_long else (run.lasts_s, run.energy_j)
        for job in jobs:
            use = uses[job]
            use.judged_s += seconds / n * bool(is_judged)
            if idles and run.lasts_s >= IDLE_AFTER_S:
                use.idle_s += more[0] / n
                use.idle_j += more[1] / n
