"""Bring readings and owners together, look after look, and settle what each job has drawn.

A look takes in new readings and the present owners. Nothing is settled before it is known who held the GPU: Slurm says
a few seconds late that a job has started, and half a minute late that one has ended. So energy is assigned up to a
moment `SETTLE_S` before the last word of the owners. After an outage of Slurm everything is settled that the next
answer tells.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from powerflow.units import HOUR_S
from powerflow.watch import lag
from powerflow.watch.attribution import PowerRange, Share, attribute
from powerflow.watch.memory import OwnerMemory
from powerflow.watch.owners import (
    UNKNOWN,
    GpuAddress,
    Holding,
    OwnersLook,
    WatchedJob,
    segments,
    with_unknown,
)
from powerflow.watch.readings import Card, Readings
from powerflow.watch.series import GpuSeries, intervals, joined, series_of
from powerflow.watch.use import IdleRun, JobUse, add_activity, by_hour

#: Energy is assigned this much later than the owners were last heard, seconds.
SETTLE_S = 90.0
#: Readings are kept this long after they were settled, to know what their owners draw, seconds.
KEEP_S = 900.0
#: Energy is settled in steps of this length, seconds.
STEP_S = 120.0
#: Readings that wait longer than this for word of the owners are settled as those of an unknown owner, seconds.
MOST_WAIT_S = 6 * HOUR_S
#: Highest power of a GPU whose limit is not known, watts.
_MOST_W = 1000.0
#: Number of ends of jobs that tell how late an exporter is.
_LAG_SAMPLES = 100


class NodeHour(NamedTuple):
    """A node and an hour of the epoch (Unix seconds // 3600), for what its GPUs drew that no job had.

    Attributes:
        node: Name of the node.
        hour: The hour.
        known: True if nobody held the GPUs; False if it is not known who held them.
    """

    node: str
    hour: int
    known: bool = True


@dataclass(slots=True)
class HourUse:
    """What GPUs of a node drew in an hour that no job had: joules with bounds, and GPU-seconds."""

    energy_j: float = 0.0
    low_j: float = 0.0
    high_j: float = 0.0
    gpu_s: float = 0.0

    def add(self, other: HourUse, share: float = 1.0) -> None:
        """Add a share of another."""
        for name in ("energy_j", "low_j", "high_j", "gpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name) * share)


@dataclass(slots=True)
class GpuTrack:
    """What is known of one GPU.

    Attributes:
        card: What it is.
        idle_w: What its type draws when it is idle, watts; nan if it is not known.
        series: Its readings: those that are not settled yet, and some before.
        settled_s: Time of the last settled reading, Unix seconds; -inf before the first.
        least_w, most_w: Least and highest mean power seen between two readings, watts.
        idle: How long it has been idle in the same hands.
        learned_s: End of the last job that told how late its readings are, Unix seconds.
    """

    card: Card
    idle_w: float = math.nan
    series: GpuSeries | None = None
    settled_s: float = -math.inf
    least_w: float = math.inf
    most_w: float = 0.0
    idle: IdleRun = field(default_factory=IdleRun)
    learned_s: float = -math.inf

    @property
    def power(self) -> PowerRange:
        """What it can draw."""
        limit_w = _MOST_W if math.isnan(self.card.limit_w) else self.card.limit_w
        return PowerRange(
            0.9 * min(self.least_w, limit_w) if self.least_w < math.inf else 0.0, max(limit_w, self.most_w)
        )


@dataclass(slots=True)
class SettledUse:
    """What was settled since the last time.

    Attributes:
        jobs: Jobs that have drawn something or have ended, with all that they have drawn so far.
        others: What GPUs drew that nobody held, or of which it is not known who held them.
        ended: Jobs that are finished: nothing will be added to them.
    """

    jobs: dict[str, tuple[WatchedJob, JobUse]] = field(default_factory=dict)
    others: dict[NodeHour, HourUse] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def then(self, later: SettledUse) -> None:
        """Add what was settled later."""
        self.jobs.update(later.jobs)
        self.ended += later.ended
        for key, use in later.others.items():
            self.others.setdefault(key, HourUse()).add(use)


class Watcher:
    """Assigns the energy of a site's GPUs to its jobs.

    Attributes:
        memory: Who holds which GPU.
        tracks: What is known of each GPU.
        uses: What each job that is not finished has drawn so far.
    """

    def __init__(self, memory: OwnerMemory | None = None, uses: Mapping[str, JobUse] | None = None) -> None:
        self.memory = memory or OwnerMemory()
        self.tracks: dict[GpuAddress, GpuTrack] = {}
        self.uses: dict[str, JobUse] = dict(uses or {})
        self._lags: dict[str, deque[float]] = {}
        self._lag_s = 0.0

    def take(self, readings: Readings, owners: OwnersLook | None) -> None:
        """Take in new readings, and who holds the GPUs now; None: the source of owners did not answer."""
        self._lag_s = readings.lag_s
        for gpu, card in readings.cards.items():
            track = self.tracks.setdefault(gpu, GpuTrack(card))
            if track.card != card or math.isnan(track.idle_w):
                track.card, track.idle_w = card, _idle_w(card.vendor_name)
        for gpu, series in readings.series.items():
            track = self.tracks.setdefault(gpu, GpuTrack(Card()))
            told = ~(np.isnan(series.energy_j) & np.isnan(series.power_w))  # else a reading tells nothing here
            if (
                track.series is not None
            ):  # a clock that was set back: the counter bridges the time until it has caught up
                told &= series.time_s > track.series.time_s[-1]
            if told.any():
                new = series.take(told)
                track.series = new if track.series is None else joined(track.series, new)
        if owners is not None:
            self.memory.update(owners)

    def settle(self, now_s: float, *, all_of_it: bool = False) -> SettledUse:
        """Assign the energy whose owners are known by now.

        Args:
            now_s: The moment, Unix seconds.
            all_of_it: True to settle up to the last reading and the last word of the owners, when the watch ends.
        """
        wait_s = 0.0 if all_of_it else SETTLE_S
        until_s = max(self.memory.known_until_s - wait_s, now_s - MOST_WAIT_S)
        settled = SettledUse()
        for gpu, track in self.tracks.items():
            self._settle(gpu, track, until_s, settled, 0.0 if all_of_it else STEP_S)
        for gpu in self.memory.gpus() - self.tracks.keys():  # of nodes that send no readings
            self.memory.forget(gpu, until_s - KEEP_S)
        self.memory.forget_gaps(min((track.settled_s for track in self.tracks.values()), default=until_s) - KEEP_S)
        for job in self.memory.forget_jobs():
            settled.jobs[job.key] = (job, self.uses.pop(job.key, JobUse()))
            settled.ended.append(job.key)
        return settled

    def _settle(self, gpu: GpuAddress, track: GpuTrack, until_s: float, settled: SettledUse, step_s: float) -> None:
        series = track.series
        if series is None or len(series) < 2:
            return
        late_s = self.lag_of(gpu.node)
        end = int(np.searchsorted(series.time_s, until_s + late_s, side="right")) - 1
        since_s = max(track.settled_s, float(series.time_s[0]))
        if end < 1 or series.time_s[end] - since_s < max(step_s, 1e-9):
            return
        to_s = float(series.time_s[end])
        on_time = replace(series, time_s=series.time_s - late_s)
        held, gaps = self.memory.holdings(gpu), self.memory.gaps
        if until_s > self.memory.known_until_s:  # nobody was heard for hours, and it cannot wait longer
            known_s = self.memory.known_until_s
            held = [
                each if each.end_s is not None else replace(each, end_s=max(known_s, each.start_s)) for each in held
            ]
            gaps = [*gaps, (known_s, math.inf)]
        owners = with_unknown(segments(held, float(on_time.time_s[0]), float(on_time.time_s[-1])), gaps)
        power = track.power
        watts = intervals(on_time, *power).energy_j / np.diff(on_time.time_s)
        track.least_w, track.most_w = min(track.least_w, float(watts.min())), max(track.most_w, float(watts.max()))
        doubt_s = self._lag_s / 3 if late_s else self._lag_s
        window = {"since_s": since_s - late_s, "until_s": to_s - late_s}
        for share in attribute(on_time, owners, power, lag_s=doubt_s, **window):
            if share.jobs in ((), UNKNOWN):
                _add_other(settled, gpu.node, share)
                continue
            for job in share.jobs:
                self.uses.setdefault(job, JobUse()).add_share(share)
        owners = [each if each.jobs != UNKNOWN else each._replace(jobs=()) for each in owners]
        for job in {key for owner in owners for key in owner.jobs}:
            use = self.uses.setdefault(job, JobUse())
            if job in self.memory.jobs:
                settled.jobs[job] = (self.memory.jobs[job], use)
        add_activity(self.uses, on_time, owners, watts, track.idle_w, track.idle, **window)
        if self._lag_s:
            self._learn_lag(gpu, track, held)
        track.settled_s = to_s
        track.series = series.take(series.time_s >= to_s - KEEP_S)
        self.memory.forget(gpu, to_s - KEEP_S)

    def _learn_lag(self, gpu: GpuAddress, track: GpuTrack, held: Iterable[Holding]) -> None:
        """Learn how late the node's exporter is from jobs of this GPU that have ended since the last time."""
        assert track.series is not None
        time_s = track.series.time_s
        for seen in lag.lags(track.series, segments(held, float(time_s[0]), float(time_s[-1])), track.power):
            if seen.end_s > track.learned_s:
                self._lags.setdefault(gpu.node, deque(maxlen=_LAG_SAMPLES)).append(seen.lag_s)
                track.learned_s = seen.end_s

    def lag_of(self, node: str) -> float:
        """Return how late the readings of a node are, as far as it was learned, in seconds; 0 if it was not."""
        return lag.typical(self._lags.get(node, ())) or 0.0


def state_of(watcher: Watcher) -> dict[str, Any]:
    """Return what a later start of the watch needs to go on, as a JSON object."""
    memory = watcher.memory
    return {
        "known_until_s": memory.known_until_s,
        "settled": any(track.settled_s > -math.inf for track in watcher.tracks.values()),
        "gaps": memory.gaps,
        "emulated": any(track.card.emulated for track in watcher.tracks.values()),
        "idle_w": min(
            (track.idle_w for track in watcher.tracks.values() if not math.isnan(track.idle_w)), default=None
        ),
        "jobs": [asdict(job) for job in memory.jobs.values()],
        "holdings": [
            [each.job, *each.gpu, each.start_s, each.end_s, each.slack_s, each.end_slack_s]
            for each in memory.all_holdings()
        ],
        "gpus": [
            [*gpu, track.settled_s, _last_counter(track), track.least_w, track.most_w]
            for gpu, track in watcher.tracks.items()
            if track.least_w < math.inf
        ],
    }


def restored(state: Mapping[str, Any], uses: Mapping[str, JobUse]) -> Watcher:
    """Return the watch that `state_of` described, with what its jobs have used.

    The time in which no watch ran becomes one long interval of each counter: its joules are known, and are divided
    between those who held the GPU before and after.
    """
    memory = OwnerMemory(
        [WatchedJob(**job) for job in state.get("jobs", ())],
        [Holding(job, GpuAddress(node, number), *times) for job, node, number, *times in state.get("holdings", ())],
        state.get("known_until_s", 0.0),
        [(begin, end) for begin, end in state.get("gaps", ())],
    )
    watcher = Watcher(memory, uses)
    for node, number, settled_s, counter_j, least_w, most_w in state.get("gpus", ()):
        track = GpuTrack(Card(), least_w=least_w, most_w=most_w)
        if counter_j is not None:
            track.series = series_of(np.array([settled_s]), energy_j=np.array([counter_j]))
            track.settled_s = settled_s
        watcher.tracks[GpuAddress(node, number)] = track
    return watcher


def _last_counter(track: GpuTrack) -> float | None:
    """Return the energy counter at the last settled reading, joules; None if there is none."""
    if track.series is None:
        return None
    at = int(np.searchsorted(track.series.time_s, track.settled_s, side="right")) - 1
    counter = float(track.series.energy_j[at]) if at >= 0 else math.nan
    return None if math.isnan(counter) else counter


@functools.cache
def _idle_w(vendor_name: str) -> float:
    """Return what a GPU of this model draws when it is idle, by the catalogue, watts; nan if it does not have it."""
    from powerflow.cost.catalogue import catalogue_types
    from powerflow.device.identity import catalogue_name

    name = catalogue_name(vendor_name)
    return next((each.idle_w for each in catalogue_types() if each.name == name), math.nan)


def _add_other(settled: SettledUse, node: str, share: Share) -> None:
    """Add the energy of a GPU that no job had to its node's hours."""
    use = HourUse(share.energy_j, share.low_j, share.high_j, share.end_s - share.start_s)
    for hour, part in by_hour(share.start_s, share.end_s):
        settled.others.setdefault(NodeHour(node, hour, share.jobs != UNKNOWN), HourUse()).add(use, part)
