"""Read from Prometheus what GPUs draw, and who holds them where labels say it.

What is asked: one request, ``GET /api/v1/query`` with ``{__name__=~"DCGM_FI_DEV_…|…"}[105s]``, brings all metrics of
all GPUs (`powerflow.watch.sources.gpu_exporters`) with the times of their scrapes. Each look of a watch is one such
request, and none comes earlier than 30 s after the one before: in between, `MetricsSource.read` returns without
asking, and the next look brings what came meanwhile. A request reaches back a minute further than the last one, since
Prometheus shows a scrape only when it has ended, and a label that is missing once must be told from one that is gone.

A time span of more than 10 minutes (a start of the watch with history, or after an outage) is read with several
requests, one after another, each of about 200,000 samples or 8 MB. Readings of an hour of 1,000 GPUs take some 15 MB of
memory at one scrape every 15 s: ask for a few hours at a time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from powerflow.errors import InputError
from powerflow.units import duration
from powerflow.watch.owners import GpuAddress, OwnersLook
from powerflow.watch.readings import Card, Readings
from powerflow.watch.series import GpuSeries, without_repeats
from powerflow.watch.sources.gpu_exporters import METRICS
from powerflow.watch.sources.label_owners import LabelOwners, told_by
from powerflow.watch.sources.prometheus_api import PrometheusApi, SampleStore, TooMuch, api_address, authorization
from powerflow.watch.sources.prometheus_series import FoundGpu, Scraper, Tracks, add_series, found_gpus

#: Two looks are at least this far apart, seconds.
EVERY_S = 30.0
#: A later look reaches back this much further than the one before; the first one further, to see how often is scraped.
LATE_S, FIRST_LATE_S = 75.0, 300.0
#: Longest time span that is one look, seconds; a longer one is history.
LOOK_MOST_S = 600.0
#: Samples per request for history.
CHUNK = 200_000
#: A look may come this much early, seconds: one that a timer starts is not turned away for milliseconds.
_EARLY_S = 1.0
#: Time span of the first request for history, the shortest and the longest, seconds.
_FIRST_S, _LEAST_S, _MOST_S = 300.0, 15.0, 86_400.0
#: Usual time between two scrapes until it is known, seconds.
_INTERVAL_S = 30.0
#: Share of readings with the same counter as the one before that shows an exporter that repeats its values.
_REPEATS = 0.1
#: The user gets a note if a counter does not change for this long, seconds.
_STANDS_STILL_S = 300.0
#: The user gets a note if the clocks of this machine and of Prometheus differ by this much, seconds.
_CLOCK_OFF_S = 10.0


@dataclass(slots=True)
class _Delivered:
    """Time (Unix seconds) and counter (joules) of the last reading of a GPU that was returned."""

    time_s: float
    energy_j: float


#: All that is read.
COLUMNS = frozenset(metric.column for metric in METRICS.values())


class NoMetrics(InputError):
    """There are no metrics of GPUs in a time span."""


class MetricsSource:
    """Reads GPUs from a store of metrics. It remembers what it has returned: calls are to follow each other in time."""

    def __init__(
        self,
        store: SampleStore,
        node_label: str = "",
        clock: Callable[[], float] = time.monotonic,
        columns: Collection[str] = COLUMNS,
    ) -> None:
        """Prepare to read; nothing is asked yet.

        Args:
            store: The store.
            node_label: Label that names the node; "" to use ``Hostname``, and else the host in ``instance``.
            clock: Seconds since some moment; tells how long ago the last look was.
            columns: What is read, as in `powerflow.watch.sources.gpu_exporters.Metric`.
        """
        self._store, self._node_label, self._clock = store, node_label, clock
        names = (name for name, metric in METRICS.items() if metric.column in columns)
        self._selector = '{__name__=~"' + "|".join(names) + '"}'
        self._due_at = -math.inf
        #: Time series of the last look, so that their labels are read once.
        self._tracks: Tracks = {}
        self._used: dict[str, Scraper] = {}
        self._ambiguous: set[str] = set()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._since_s, self._until_s, self._newest_s = -math.inf, -math.inf, -math.inf
        self._delivered: dict[GpuAddress, _Delivered] = {}
        self._cards: dict[GpuAddress, Card] = {}
        self._labels: set[str] = set()
        self._owners = LabelOwners()
        self._look: OwnersLook | None = None
        self._interval_s, self._lag_s, self._repeats = math.nan, _INTERVAL_S, False

    @property
    def name(self) -> str:
        """What it is, for the user."""
        return self._store.name

    @property
    def cards(self) -> Mapping[GpuAddress, Card]:
        """All GPUs that were found so far."""
        return self._cards

    def read(self, since_s: float, until_s: float) -> Readings:
        """Return the readings after one moment up to another (Unix seconds), each once.

        A reading that Prometheus has stored late comes with the next call, though it was taken before ``since_s``.
        A call that follows another one within 30 s returns no readings; the next one brings them. A call that goes back
        in time begins anew.

        Raises:
            InputError: Prometheus does not answer, or has no metrics of GPUs.
        """
        if min(until_s + EVERY_S, since_s + LOOK_MOST_S) < self._until_s:
            self._begin_anew()
        goes_on = math.isfinite(self._until_s)
        history = until_s - (self._until_s if goes_on else since_s) > LOOK_MOST_S
        if not history:
            now = self._clock()
            if goes_on and now < self._due_at - _EARLY_S:
                return self._readings({}, [])
            self._due_at = max(self._due_at, now) + EVERY_S
        tracks: Tracks = {} if history else self._tracks
        notes = self._gather(tracks, self._from_s(since_s), until_s, _FIRST_S if history else math.inf)
        found, said = found_gpus(tracks.values(), self._used, self._ambiguous)
        if not found and not goes_on:
            raise self._nothing(tracks, said, until_s - self._from_s(since_s))
        gpus = [*found.values()]
        self._learn_times(gpus)
        if not goes_on:
            self._since_s = since_s
        series = {gpu.address: self._new(gpu, until_s) for gpu in gpus}
        for gpu in gpus:
            self._keep_card(gpu)
        notes += [*said, *self._stand_still(gpus)]
        told = told_by(gpus, tracks.values(), self._labels)
        self._look = self._owners.update(told.presences, told.facts, self._usual_s)
        notes += [*told.notes, *self._new_labels(told.labels)]
        self._used |= {key: next(iter(gpu.scraped)) for key, gpu in found.items()}
        self._until_s = max(self._until_s, until_s)
        self._newest_s = max([self._newest_s, *(float(gpu.series.time_s[-1]) for gpu in gpus)])
        return self._readings({address: each for address, each in series.items() if len(each)}, notes)

    @property
    def _usual_s(self) -> float:
        """Usual time between two scrapes, seconds."""
        return _INTERVAL_S if math.isnan(self._interval_s) else self._interval_s

    def _from_s(self, since_s: float) -> float:
        """Return from when on samples are asked for, Unix seconds."""
        if not math.isfinite(self._until_s):
            return since_s - FIRST_LATE_S
        # the clock of Prometheus may be behind: go back to its last sample, but not for ever if all exporters are down
        seen_s = max(self._newest_s, self._until_s - LOOK_MOST_S)
        return min(self._until_s, seen_s) - max(LATE_S, 2.5 * self._usual_s)

    def _gather(self, tracks: Tracks, from_s: float, until_s: float, step_s: float) -> list[str]:
        """Ask for all samples of a time span, in steps of about `CHUNK` samples; return notes for the user.

        Args:
            tracks: Takes the samples; samples of an earlier look are dropped from it, and what has no new ones.
            from_s, until_s: The time span, Unix seconds.
            step_s: Time span of the first request, seconds.
        """
        for track in tracks.values():
            track.parts.clear()
        notes: dict[str, None] = {}
        at_s = from_s
        while at_s < until_s:
            end_s = min(at_s + step_s, until_s)
            try:
                answer = self._store.ask(f"{self._selector}[{math.ceil(1000 * (end_s - at_s))}ms]", end_s)
            except TooMuch:
                if not _LEAST_S < step_s < math.inf:
                    raise
                step_s = max(step_s / 2, _LEAST_S)
                continue
            try:
                samples = add_series(tracks, answer.series, self._node_label)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(
                    "its answer cannot be read", where=self.name, fix="check that this is Prometheus", exit_code=5
                ) from None
            notes |= dict.fromkeys(answer.warnings)
            if abs(answer.ahead_s) > _CLOCK_OFF_S:
                ahead = "ahead of" if answer.ahead_s > 0 else "behind"
                notes[f"its clock is {duration(abs(answer.ahead_s))} {ahead} this machine's"] = None
            at_s = end_s
            step_s = min(step_s * min(CHUNK / max(samples, 1), 4.0), _MOST_S)
        for key in [key for key, track in tracks.items() if not track.parts]:
            del tracks[key]
        return [*notes]

    def _nothing(self, tracks: Tracks, said: list[str], span_s: float) -> NoMetrics:
        """Return the error for an answer without GPUs."""
        if self._node_label and tracks and not any(self._node_label in track.labels for track in tracks.values()):
            there = sorted({name for track in tracks.values() for name in track.labels})
            return NoMetrics(
                f"no metric of a GPU has the label {self._node_label}",
                where=self.name,
                fix=f"--node-label may be one of {', '.join(there)}"[:300],
            )
        return NoMetrics(
            "; ".join(said) or f"has no metrics of GPUs in the last {duration(span_s)}",
            where=self.name,
            fix="let it scrape dcgm-exporter or nvidia_gpu_exporter",
        )

    def _learn_times(self, gpus: Iterable[FoundGpu]) -> None:
        """Learn how often GPUs are scraped, and how old a reading may be at its time."""
        steps, repeated, counted = [], 0, 0
        age_s = 0.0
        for gpu in gpus:
            steps.append(np.diff(gpu.series.time_s))
            counter = gpu.series.energy_j
            repeated += int((counter[1:] == counter[:-1]).sum())
            counted += int((~np.isnan(counter[1:])).sum())
            age_s = max(age_s, gpu.age_s)
        found = np.concatenate(steps) if steps else np.zeros(0)
        if len(found):
            self._interval_s = float(np.median(found))
            # the first scrape with a new value: the exporter has read it since the scrape before
            self._repeats = counted > 0 and repeated / counted > _REPEATS
            self._lag_s = self._interval_s if self._repeats else min(self._interval_s, age_s)

    def _new(self, gpu: FoundGpu, until_s: float) -> GpuSeries:
        """Return the readings of a GPU that were not returned yet, without those that repeat the one before."""
        series = without_repeats(gpu.series)
        known = self._delivered.get(gpu.address)
        since_s = self._since_s if known is None else known.time_s
        new = series.take((series.time_s > since_s) & (series.time_s <= until_s))
        if len(new):
            # the first value of all may have been repeated for a while already
            first_of_all = self._repeats and new.time_s[0] == series.time_s[0]
            if first_of_all if known is None else new.energy_j[0] == known.energy_j:
                new = new.take(slice(1, None))
        if len(new):
            self._delivered[gpu.address] = _Delivered(float(new.time_s[-1]), float(new.energy_j[-1]))
        return new

    def _keep_card(self, gpu: FoundGpu) -> None:
        """Keep what a GPU is; its limit too, while the limit is not reported."""
        known = self._cards.get(gpu.address)
        if known is not None and math.isnan(gpu.card.limit_w):
            self._cards[gpu.address] = replace(gpu.card, limit_w=known.limit_w)
        else:
            self._cards[gpu.address] = gpu.card

    def _new_labels(self, labels: set[str]) -> list[str]:
        """Return a note on the labels that tell who holds GPUs, if there are others than before."""
        if labels <= self._labels:
            return []
        self._labels |= labels
        return [f"the label {' or '.join(sorted(self._labels))} tells which job holds a GPU"]

    def _stand_still(self, gpus: Iterable[FoundGpu]) -> list[str]:
        """Return a note on GPUs that are scraped, but whose counter does not move."""
        still = sum(
            1
            for gpu in gpus
            if (known := self._delivered.get(gpu.address)) is not None
            and gpu.series.time_s[-1] - known.time_s > max(_STANDS_STILL_S, 5 * self._usual_s)
        )
        return [f"the counters of {still} GPUs stand still; their exporter may hang"] if still else []

    def _readings(self, series: Mapping[GpuAddress, GpuSeries], notes: Iterable[str]) -> Readings:
        said = [f"Prometheus: {note}" for note in notes]
        return Readings(series, dict(self._cards), self._lag_s, self._look, said)


class Prometheus(MetricsSource):
    """Reads GPUs from a Prometheus, or from a store that has its HTTP API (Thanos, Mimir, VictoriaMetrics)."""

    def __init__(
        self,
        url: str,
        *,
        token_file: Path | None = None,
        basic_file: Path | None = None,
        ca_file: Path | None = None,
        node_label: str = "",
    ) -> None:
        """Prepare to read; nothing is asked yet.

        Args:
            url: Address of Prometheus, as in a browser; ``/api/v1/query`` is added.
            token_file, basic_file: As in `powerflow.watch.sources.prometheus_api.authorization`; without them the
                environment counts.
            ca_file: Certificates of the authorities that are trusted, PEM; None for those of this machine.
            node_label: Label that names the node; "" to look for it.

        Raises:
            InputError: The address or a file cannot be used.
        """
        super().__init__(opened_api(url, token_file, basic_file, ca_file), node_label)


def opened_api(url: str, token_file: Path | None, basic_file: Path | None, ca_file: Path | None) -> PrometheusApi:
    """Return the API at an address; arguments as for `Prometheus`. Nothing is asked yet.

    Raises:
        InputError: The address or a file cannot be used.
    """
    return PrometheusApi(api_address(url), authorization(token_file, basic_file, os.environ), ca_file)
