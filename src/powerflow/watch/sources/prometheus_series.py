"""Turn the time series of Prometheus into the readings of GPUs.

Prometheus has a time series for each metric and each set of labels. So one GPU has many: one per metric; a new one
whenever a label changes, such as the job that holds it; one for each of its MIG instances, which repeat its counter;
and one for each Prometheus job or replica that scrapes its exporter. All samples of one scrape have the same time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from powerflow.arrays import BoolArray, FloatArray
from powerflow.watch.owners import GpuAddress
from powerflow.watch.readings import Card
from powerflow.watch.series import GpuSeries, joined
from powerflow.watch.sources.gpu_exporters import METRICS, SLURM_JOB, ExportedGpu, Metric, gpu_of

#: Labels by which replicas of Prometheus mark their samples.
_REPLICAS = ("prometheus", "prometheus_replica", "replica", "__replica__", "monitor")
#: Columns that a MIG instance reports for itself; what the whole GPU does is not known from them.
_OF_SLICE = ("utilisation", "sm_active", "memory_active")
#: Columns without which there is no energy, and the limit: it counts whether they are there.
_NEEDED = {"energy_j", "power_w", "limit_w"}
#: Metrics that are no column of readings.
_NO_COLUMN = ("info", "job", "uid")
#: A scraper with this share of another one's scrapes is as good; then the first in the alphabet is taken.
_AS_MANY = 0.9
#: Readings of a second scraper are taken if the first has none within this many of its usual intervals.
_GAP = 3.0


class Scraper(NamedTuple):
    """One way on which readings come to Prometheus.

    Attributes:
        exporter: Name of the exporter.
        job, instance: Labels that Prometheus gives to what it scrapes.
        replica: Which Prometheus it was, where several send their samples to one store.
    """

    exporter: str
    job: str
    instance: str
    replica: str


@dataclass(slots=True)
class Track:
    """One time series of Prometheus.

    Attributes:
        labels: Its labels.
        metric, gpu, scraper: What the labels tell.
        parts: Times (Unix seconds) and values of its samples, in the unit of its column; one pair per request.
    """

    labels: Mapping[str, str]
    metric: Metric
    gpu: ExportedGpu
    scraper: Scraper
    parts: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)

    @property
    def time_s(self) -> FloatArray:
        """Times of all samples, Unix seconds."""
        return self.parts[0][0] if len(self.parts) == 1 else np.concatenate([time_s for time_s, _ in self.parts])

    @property
    def value(self) -> FloatArray:
        """Values of all samples."""
        return self.parts[0][1] if len(self.parts) == 1 else np.concatenate([value for _, value in self.parts])


#: Time series by their labels.
Tracks = dict[frozenset[tuple[str, str]], Track]


def add_series(tracks: Tracks, series: Iterable[Mapping[str, Any]], node_label: str = "") -> int:
    """Add an answer of Prometheus to what earlier answers brought; return the number of its samples.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: The answer has another form.
    """
    times: list[float] = []
    texts: list[str] = []
    here: list[Track] = []
    ends: list[int] = []
    for each in series:
        labels, samples = each["metric"], each.get("values")
        if not samples or labels["__name__"] not in METRICS:
            continue
        key = frozenset(labels.items())
        track = tracks.get(key)
        if track is None:
            track = tracks[key] = _track(labels, node_label)
        at, text = zip(*samples, strict=True)
        times += at
        texts += text
        here.append(track)
        ends.append(len(times))
    if not here:
        return 0
    time_s, lengths = np.array(times, float), np.diff(ends, prepend=0)
    metrics = [track.metric for track in here]
    value = np.array([*map(float, texts)]) * np.repeat([metric.factor for metric in metrics], lengths)
    with np.errstate(invalid="ignore"):
        value[~((value >= 0) & (value <= np.repeat([metric.most for metric in metrics], lengths)))] = np.nan
    for track, length, end in zip(here, lengths, ends, strict=True):
        track.parts.append((time_s[end - length : end], value[end - length : end]))
    return len(times)


def _track(labels: Mapping[str, str], node_label: str) -> Track:
    metric = METRICS[labels["__name__"]]
    replica = ",".join(labels[name] for name in _REPLICAS if name in labels)
    scraper = Scraper(metric.exporter.name, labels.get("job", ""), labels.get("instance", ""), replica)
    return Track(labels, metric, gpu_of(labels, node_label), scraper)


@dataclass(frozen=True, slots=True)
class Scraped:
    """What one scraper has of one GPU.

    Attributes:
        time_s: When it was scraped, Unix seconds, ascending.
        columns: Values at these times by column; nan where there is none.
        tracks: The time series.
    """

    time_s: FloatArray
    columns: Mapping[str, FloatArray]
    tracks: Sequence[Track]


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """A GPU with all that Prometheus has of it.

    Attributes:
        address, card: Which GPU it is, and what it is.
        series: Its readings, of one scraper at each time.
        scraped: What each scraper has of it, the one that is used first.
        age_s: How old the values of its exporter may be when it is scraped, seconds.
    """

    address: GpuAddress
    card: Card
    series: GpuSeries
    scraped: Mapping[Scraper, Scraped]
    age_s: float


def found_gpus(
    tracks: Iterable[Track], used: Mapping[str, Scraper], ambiguous: set[str]
) -> tuple[dict[str, FoundGpu], list[str]]:
    """Return the GPUs that these time series belong to, and what is to be said of them.

    Args:
        tracks: The time series.
        used: The scraper that was used for each GPU before; it is used again while it has readings.
        ambiguous: Names that several nodes have; names that turn out to be such are added.

    Returns:
        The GPUs by a name that stays the same (the UUID, where it is known), and notes for the user.
    """
    groups, unplaced = _by_gpu(tracks)
    found: dict[str, FoundGpu] = {}
    sliced = 0
    for key, group in groups.items():
        gpu = _found(group, used.get(key))
        if gpu is None:
            unplaced += any(track.metric.column in ("energy_j", "power_w") for track in group)
        else:
            found[key] = gpu
            sliced += any(track.gpu.slice for track in group)
    notes = _resolved(found, ambiguous)
    twice = sum(_scraped_twice(gpu.scraped) for gpu in found.values())
    if twice:
        notes.append(f"{twice} GPUs are scraped more than once (jobs or replicas of Prometheus); each is counted once")
    if sliced:
        notes.append(f"{sliced} GPUs are shared as MIG instances, which have one energy counter; their jobs share it")
    if unplaced:
        notes.append(f"{unplaced} GPUs have no number or node in their labels and are left out")
    return found, notes


def _by_gpu(tracks: Iterable[Track]) -> tuple[dict[str, list[Track]], int]:
    """Return the time series of each GPU, and how many belong to no GPU."""
    named: dict[str, list[Track]] = {}
    by_place: dict[tuple[str, int], set[str]] = {}
    others: list[Track] = []
    for track in tracks:
        gpu = track.gpu
        if track.metric.exporter == SLURM_JOB:
            continue
        if not gpu.uuid:
            others.append(track)
            continue
        named.setdefault(gpu.uuid, []).append(track)
        if gpu.number is not None:
            by_place.setdefault((gpu.node, gpu.number), set()).add(gpu.uuid)
    unplaced = 0
    for track in others:
        node, number = track.gpu.node, track.gpu.number
        if number is None or not node:
            unplaced += track.metric.column == "power_w"
            continue
        keys = by_place.get((node, number), set())
        named.setdefault(next(iter(keys)) if len(keys) == 1 else f"{node}:{number}", []).append(track)
    return named, unplaced


def _found(group: Sequence[Track], used: Scraper | None) -> FoundGpu | None:
    """Return the GPU of these time series; None if its place or its readings are missing."""
    by_scraper: dict[Scraper, list[Track]] = {}
    for track in group:
        by_scraper.setdefault(track.scraper, []).append(track)
    scraped = {scraper: _scraped(mine) for scraper, mine in by_scraper.items()}

    able = sorted(each for each in scraped if scraped[each].columns.keys() & {"energy_j", "power_w"})
    most = max((len(scraped[each].time_s) for each in able), default=0)

    def rank(scraper: Scraper) -> tuple[bool, bool, bool]:
        mine = scraped[scraper]
        return "energy_j" not in mine.columns, scraper != used, len(mine.time_s) < _AS_MANY * most - 1

    order = sorted(able, key=rank)
    if not order:
        return None
    first = [*by_scraper[order[0]], *group]
    number = next((track.gpu.number for track in first if track.gpu.number is not None), None)
    node = next((track.gpu.node for track in first if track.gpu.node), "")
    if number is None or not node:
        return None
    limits = [each.columns["limit_w"] for each in scraped.values() if "limit_w" in each.columns]
    card = Card(
        next((track.gpu.uuid for track in first if track.gpu.uuid), ""),
        next((track.gpu.vendor_name for track in first if track.gpu.vendor_name), ""),
        min((float(limit[~np.isnan(limit)][-1]) for limit in limits), default=float("nan")),
        any(track.gpu.emulated for track in group),
    )
    masks = stitched([scraped[each].time_s for each in order])
    parts = [_series(scraped[each]).take(mask) for each, mask in zip(order, masks, strict=True)]
    series = functools.reduce(joined, parts)
    with_readings = {each: scraped[each] for each in order} | scraped
    age_s = max(track.metric.exporter.age_s for track in by_scraper[order[0]])
    return FoundGpu(GpuAddress(node, number), card, series, with_readings, age_s)


def _series(scraped: Scraped) -> GpuSeries:
    """Return what one scraper has of a GPU as readings. A counter that stays at 0 is one that the card lacks."""
    columns = {name: scraped.columns.get(name) for name in GpuSeries.__slots__ if name != "time_s"}
    counter = columns["energy_j"]
    if counter is not None and not np.nanmax(counter):
        columns["energy_j"] = None
    missing = np.full(len(scraped.time_s), np.nan)
    return GpuSeries(scraped.time_s, **{name: missing if each is None else each for name, each in columns.items()})


def _scraped(tracks: Sequence[Track]) -> Scraped:
    """Put the time series of one scraper side by side."""
    times = [track.time_s for track in tracks]
    if all(np.array_equal(each, times[0]) for each in times[1:]):
        time_s = np.unique(times[0]) if len(tracks[0].parts) > 1 else times[0]
    else:
        time_s = np.unique(np.concatenate(times))
    columns: dict[str, FloatArray] = {}
    for track, at_s in zip(tracks, times, strict=True):
        name = track.metric.column
        if name in _NO_COLUMN or (track.gpu.slice and name in _OF_SLICE):
            continue
        if name not in columns and at_s is times[0] is time_s:
            columns[name] = track.value
            continue
        at = np.searchsorted(time_s, at_s)
        column = columns[name].copy() if name in columns else np.full(len(time_s), np.nan)
        # MIG instances are read one after another, so that their values of the same counter differ a little
        column[at] = (np.fmin if name == "limit_w" else np.fmax)(column[at], track.value)
        columns[name] = column
    for name in _NEEDED & columns.keys():
        if np.isnan(columns[name]).all():
            del columns[name]
    return Scraped(time_s, columns, tracks)


def stitched(times: Sequence[FloatArray]) -> list[BoolArray]:
    """Choose from several scrapers one at each time.

    Args:
        times: When each of them has scraped, Unix seconds, ascending; the best one first.

    Returns:
        For each scraper a mask of its samples that are used: of the first all, of the others those that are far from
        any that is used already. Two exporters may be late by different times, so that their counters do not mix.
    """
    kept = times[0]
    masks: list[BoolArray] = [np.ones(len(kept), bool)]
    for other in times[1:]:
        far = _distance_s(other, kept) > _GAP * _usual_s(kept, other)
        masks.append(far)
        if far.any():
            kept = np.sort(np.concatenate([kept, other[far]]))
    return masks


def _distance_s(time_s: FloatArray, others: FloatArray) -> FloatArray:
    """Return how far each time is from the nearest of others, seconds."""
    padded = np.concatenate([[-np.inf], others, [np.inf]])
    after = np.searchsorted(others, time_s)
    found: FloatArray = np.minimum(time_s - padded[after], padded[after + 1] - time_s)
    return found


def _usual_s(*times: FloatArray) -> float:
    """Return the usual interval between two times of the same list, seconds; 30 if none has two."""
    steps = np.concatenate([np.diff(each) for each in times])
    return float(np.median(steps)) if len(steps) else 30.0


def _scraped_twice(scraped: Mapping[Scraper, Scraped]) -> bool:
    """Return True if several scrapers have energy or power of a GPU at the same time."""
    return _any_overlap(each.time_s for each in scraped.values() if each.columns.keys() & {"energy_j", "power_w"})


def _resolved(found: dict[str, FoundGpu], ambiguous: set[str]) -> list[str]:
    """Let no two GPUs have the same address: name nodes by the host that Prometheus scrapes, or leave GPUs out.

    Args:
        found: The GPUs; changed in place.
        ambiguous: Names that several nodes have; names that turn out to be such are added.

    Returns:
        Notes for the user.
    """
    ambiguous |= {address.node for address, keys in _same_address(found).items() if _at_once(found, keys)}
    renamed = False
    for key, gpu in found.items():
        instance = next(track.gpu.instance for each in gpu.scraped.values() for track in each.tracks)
        if gpu.address.node in ambiguous and instance:
            found[key] = replace(gpu, address=gpu.address._replace(node=instance))
            renamed = True
    notes = []
    if renamed:
        notes.append("several nodes have the same host name in their labels; they are called by the label instance")
    for address, keys in _same_address(found).items():
        at_once = _at_once(found, keys)
        latest = max(keys, key=lambda key: float(found[key].series.time_s[-1]))
        for key in keys:
            if key != latest:
                del found[key]
        notes.append(
            f"{len(keys)} GPUs are called {address}, and only one is read; name the node's label with --node-label"
            if at_once
            else f"the GPU {address} was replaced; only readings of the new one are used"
        )
    return notes


def _same_address(found: Mapping[str, FoundGpu]) -> dict[GpuAddress, list[str]]:
    """Return the addresses that several GPUs have, with these GPUs."""
    by_address: dict[GpuAddress, list[str]] = {}
    for key, gpu in found.items():
        by_address.setdefault(gpu.address, []).append(key)
    return {address: keys for address, keys in by_address.items() if len(keys) > 1}


def _at_once(found: Mapping[str, FoundGpu], keys: Sequence[str]) -> bool:
    """Return True if readings of several of these GPUs overlap in time, so that none has replaced another."""
    return _any_overlap(found[key].series.time_s for key in keys)


def _any_overlap(times: Iterable[FloatArray]) -> bool:
    spans = sorted((float(each[0]), float(each[-1])) for each in times)
    return any(start < end for (_, end), (start, _) in itertools.pairwise(spans))
