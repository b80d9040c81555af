"""Measure jobs after the fact, from readings that a store of metrics has kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from powerflow.units import HOUR_S
from powerflow.watch.owners import OwnersLook, WatchedJob
from powerflow.watch.readings import Readings, ReadingSource
from powerflow.watch.sources.prometheus import NoMetrics
from powerflow.watch.use import JobUse
from powerflow.watch.watcher import Watcher

#: Readings of this time are held in memory at once, seconds: some 50 MB for 1,000 GPUs and a scrape every 15 s.
PART_S = 6 * HOUR_S

#: Tells who held GPUs in a time, from the readings of this time and its begin and end (Unix seconds); None: unknown.
TellsOwners = Callable[[Readings, float, float], OwnersLook | None]
#: What jobs have used, by key.
Uses = dict[str, tuple[WatchedJob, JobUse]]


def past_uses(
    source: ReadingSource,
    since_s: float,
    until_s: float,
    owners: Sequence[TellsOwners],
    progress: Callable[[float], None] = lambda share: None,
) -> list[Uses]:
    """Return what jobs have used in a past time, as a watch would have found that ran meanwhile.

    The readings are read once, part after part. Times from which the store has nothing are passed over.

    Args:
        source: The readings.
        since_s, until_s: The time, Unix seconds.
        owners: Several ways to tell who held the GPUs; there is one result for each.
        progress: Is called with the share of the time that is done.

    Raises:
        InputError: The store does not answer, or has nothing from all of this time.
    """
    watchers = [Watcher() for _ in owners]
    found: list[Uses] = [{} for _ in owners]
    at_s, missing = since_s, None
    seen = False
    while at_s < until_s:
        end_s = min(at_s + PART_S, until_s)
        try:
            readings = source.read(at_s, end_s)
        except NoMetrics as error:
            missing = error
        else:
            seen = True
            for watcher, told, uses in zip(watchers, owners, found, strict=True):
                watcher.take(readings, told(readings, at_s, end_s))
                uses.update(watcher.settle(end_s).jobs)
        at_s = end_s
        progress((at_s - since_s) / (until_s - since_s))
    if missing is not None and not seen:
        raise missing
    for watcher, uses in zip(watchers, found, strict=True):
        uses.update(watcher.settle(until_s, all_of_it=True).jobs)
    return found


def by_labels(readings: Readings, since_s: float, until_s: float) -> OwnersLook | None:
    """Return who held GPUs as the labels of the readings tell it."""
    return readings.owners
