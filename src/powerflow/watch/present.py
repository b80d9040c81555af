"""Say who draws what now, and since when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.watch.owners import HIDDEN, GpuAddress
from powerflow.watch.use import is_idle
from powerflow.watch.watcher import GpuTrack, Watcher

#: A GPU whose last reading is older than this is silent, seconds.
SILENT_S = 120.0
#: A GPU that has been idle in the same hands for this long is shown as idle, seconds.
IDLE_S = 600.0
#: A reading may show what a job did that gave the GPU back less than this before, seconds.
_AFTER_S = 120.0


@dataclass(frozen=True, slots=True)
class PresentJob:
    """A job that holds GPUs now.

    Attributes:
        id, name, user, account, partition, state: As its scheduler says.
        gpus: The GPUs.
        silent: Number of these that have not told their power in the last two minutes.
        idle: Number of these that have been idle for 10 minutes and more.
        power_w: Power of its GPUs by their last readings, watts; None if none of them tells it.
        utilisation: Mean utilisation of these, 0 to 1; None if it is not reported.
        clock_mhz: Mean clock of these, MHz; None if it is not reported.
        start_s: Since when it holds them, Unix seconds.
        energy_j, low_j, high_j: What it has drawn up to `Present.settled_s`, and its bounds, joules; None if nothing is
            known yet.
        from_s: When its first reading was taken, Unix seconds; None if there is none.
    """

    id: str
    name: str
    user: str
    account: str
    partition: str
    state: str
    gpus: Sequence[GpuAddress]
    silent: int
    idle: int
    power_w: float | None
    utilisation: float | None
    clock_mhz: float | None
    start_s: float
    energy_j: float | None
    low_j: float | None
    high_j: float | None
    from_s: float | None


@dataclass(frozen=True, slots=True)
class Present:
    """Who draws what now.

    Attributes:
        time_s: The moment, Unix seconds.
        settled_s: Up to this moment the energy of jobs is known, Unix seconds; None if nothing is known yet.
        jobs: Jobs that hold GPUs, the one with the highest power first.
        gpus: Number of GPUs with readings.
        free: Number of these that nobody holds; None if it is not known who holds GPUs.
        free_w: Power of those that nobody holds, or of which it is not known, watts.
        hidden: Number of GPUs that jobs hold which this user may not see.
        hidden_w: Power of these, watts.
        unclaimed: GPUs on which something computes though no job is known to hold them.
        power_w: Power of all GPUs, watts.
        silent: GPUs that have not told their power in the last two minutes.
        emulated: True if some of the GPUs are emulated.
    """

    time_s: float
    settled_s: float | None
    jobs: Sequence[PresentJob]
    gpus: int
    free: int | None
    free_w: float
    hidden: int
    hidden_w: float
    unclaimed: Sequence[GpuAddress]
    power_w: float
    silent: Sequence[GpuAddress]
    emulated: bool


@dataclass(frozen=True, slots=True)
class _Last:
    """The last reading of a GPU, how many jobs share it, and whether it has long been idle."""

    time_s: float
    power_w: float
    utilisation: float
    clock_mhz: float
    shared_by: int
    idle: bool


def present(watcher: Watcher, now_s: float) -> Present:
    """Return who draws what now (Unix seconds), from the last readings and the last word of the owners."""
    holders: dict[GpuAddress, list[str]] = {}
    for holding in watcher.memory.all_holdings():
        if holding.end_s is None:
            holders.setdefault(holding.gpu, []).append(holding.job)
    last: dict[GpuAddress, _Last] = {}
    silent: list[GpuAddress] = []
    for gpu, track in watcher.tracks.items():
        found = _last(track, now_s, len(holders.get(gpu, ())))
        if found is None:
            silent.append(gpu)
        else:
            last[gpu] = found
    jobs = []
    held: dict[str, list[GpuAddress]] = {}
    for gpu, keys in holders.items():
        for key in keys:
            held.setdefault(key, []).append(gpu)
    for key, gpus in held.items():
        job, use = watcher.memory.jobs.get(key), watcher.uses.get(key)
        if job is None:
            continue
        readings = [last[gpu] for gpu in gpus if gpu in last]
        known = use is not None and use.gpu_s > 0
        jobs.append(
            PresentJob(
                job.id,
                job.name,
                job.user,
                job.account,
                job.partition,
                job.state,
                sorted(gpus),
                len(gpus) - len(readings),
                sum(each.idle for each in readings),
                sum(each.power_w / each.shared_by for each in readings) if readings else None,
                _mean([each.utilisation for each in readings]),
                _mean([each.clock_mhz for each in readings]),
                job.start_s,
                use.energy_j if use is not None and known else None,
                use.low_j if use is not None and known else None,
                use.high_j if use is not None and known else None,
                use.from_s if use is not None and known else None,
            )
        )
    free = {gpu: each for gpu, each in last.items() if gpu not in holders}
    hidden = [each for gpu, each in last.items() if holders.get(gpu) == [HIDDEN]]
    settled = [track.settled_s for track in watcher.tracks.values() if track.settled_s > -math.inf]
    return Present(
        now_s,
        min(settled, default=None),
        sorted(jobs, key=lambda job: (-(job.power_w or 0.0), job.id)),
        len(last),
        len(free) if watcher.memory.known_until_s and watcher.memory.complete else None,
        sum(each.power_w for each in free.values()),
        len(hidden),
        sum(each.power_w for each in hidden),
        sorted(gpu for gpu, each in free.items() if _unclaimed(watcher, gpu, each)),
        sum(each.power_w for each in last.values()),
        sorted(silent),
        any(track.card.emulated for track in watcher.tracks.values()),
    )


def _last(track: GpuTrack, now_s: float, holders: int) -> _Last | None:
    """Return the last reading of a GPU; None if it is too old, or does not tell the power."""
    series = track.series
    if series is None or not len(series) or abs(now_s - series.time_s[-1]) > SILENT_S:
        return None
    power_w = float(series.power_w[-1])
    if math.isnan(power_w) and len(series) > 1:  # only the counter is reported
        power_w = float((series.energy_j[-1] - series.energy_j[-2]) / (series.time_s[-1] - series.time_s[-2]))
    idle = bool(track.idle.jobs) and track.idle.lasts_s >= IDLE_S
    values = (float(series.utilisation[-1]), float(series.clock_mhz[-1]))
    return None if math.isnan(power_w) else _Last(float(series.time_s[-1]), power_w, *values, max(holders, 1), idle)


def _unclaimed(watcher: Watcher, gpu: GpuAddress, last: _Last) -> bool:
    """Return True if a GPU computes though no job is known to hold it, nor held it a short while before."""
    memory = watcher.memory
    if not memory.known_until_s or not memory.complete:
        return False
    if bool(is_idle(np.array(last.utilisation), np.array(last.power_w), watcher.tracks[gpu].idle_w)):
        return False
    if math.isnan(last.utilisation) and math.isnan(watcher.tracks[gpu].idle_w):
        return False
    ends_s = [each.end_s for each in memory.holdings(gpu) if each.end_s is not None]
    ends_s += [end_s for _, end_s in memory.gaps]  # who held it then is not known
    return max(ends_s, default=-math.inf) < last.time_s - _AFTER_S


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None
