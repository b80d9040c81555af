"""Say why a log may not be reproduced: what the log itself shows that no simple model of a scheduler can do.

The estimates come from the logged starts alone, not from a simulation: how many GPUs were free while jobs waited, how
many GPUs jobs held at once, and in which weeks the model is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray
from powerflow.simulate.replay.log import MOST_ERROR, Log, Reproduction
from powerflow.simulate.replay.queue import NAMES
from powerflow.units import duration, percent

#: A share of the waiting below this is not worth a sentence.
_WORTH = 0.05
#: A log whose jobs never hold more than this share of the cluster's GPUs is probably one of a smaller cluster.
_SMALL = 0.9


def misses(log: Log, capacity: int, best: Reproduction) -> list[str]:
    """Return sentences on what makes the best model differ from the log; none if it reproduces the log.

    Args:
        log: The jobs of the log. At least one has a logged start.
        capacity: Number of GPUs of the cluster.
        best: The best model, compared with the log.
    """
    if best.whole.error <= MOST_ERROR:
        return []
    known = np.isfinite(log.start_s)
    time_s, held = _held(log, known)
    said = [_off(best), *_counts(held, time_s, capacity), *_free(log, known, time_s, held, capacity), *_weeks(best)]
    if not np.isfinite(log.limit_s).any():
        said.append(
            "the log has no time limits, so backfilling knows how long each job will run, which no site does: add "
            "Timelimit to sacct -o"
        )
    return said


def _off(best: Reproduction) -> str:
    whole = best.whole
    return (
        f"mean wait: {duration(whole.wait_logged_s)} in the log, {duration(whole.wait_s)} by {NAMES[best.discipline]}; "
        f"utilisation: {percent(whole.utilisation_logged)} and {percent(whole.utilisation)}"
    )


def _held(log: Log, known: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Return the moments at which the number of held GPUs changes in the log, and this number from each on."""
    start_s, gpus = log.start_s[known], log.gpus[known].astype(float)
    moments = np.concatenate([start_s, start_s + log.run_s[known]])
    order = np.argsort(moments, kind="stable")
    held = np.cumsum(np.concatenate([gpus, -gpus])[order])
    last = np.append(np.diff(moments[order]) > 0, True)  # of one moment, the last state counts
    return moments[order][last], held[last]


def _counts(held: FloatArray, time_s: FloatArray, capacity: int) -> Iterator[str]:
    lasts_s = np.diff(time_s, append=time_s[-1])
    most = float(held[lasts_s > 0].max(initial=0.0))
    over = float(lasts_s[held > capacity].sum() / max(lasts_s.sum(), 1.0))
    if most > capacity:
        yield (
            f"jobs of the log hold up to {most:,.0f} GPUs at once, but the cluster has {capacity:,} (exceeded in "
            f"{percent(over)} of the time): the log has jobs of another partition, or the cluster is larger"
        )
    elif most < _SMALL * capacity:
        yield (
            f"jobs of the log never hold more than {most:,.0f} of {capacity:,} GPUs at once: the cluster was smaller, "
            "or nodes were down or not in this partition"
        )


def _free(log: Log, known: npt.NDArray[np.bool_], time_s: FloatArray, held: FloatArray, capacity: int) -> Iterator[str]:
    """Say for which share of their waiting enough GPUs were free for the jobs that waited."""
    submit_s, start_s, gpus = log.submit_s[known], log.start_s[known], log.gpus[known]
    moments, free = np.append(min(0.0, time_s[0]) - 1.0, time_s), np.append(capacity, capacity - held)
    waited_s, free_s = float((start_s - submit_s).sum()), 0.0
    for count in np.unique(gpus).tolist():
        fits = np.append(0.0, np.cumsum(np.diff(moments) * (free[:-1] >= count)))
        mine = gpus == count
        at = [np.interp(when[mine], moments, fits) for when in (submit_s, start_s)]
        free_s += float((at[1] - at[0]).sum())
    share = free_s / waited_s if waited_s > 0 else 0.0
    if share >= _WORTH:
        yield (
            f"in {percent(share)} of all waiting time, as many GPUs were free as the waiting job asked for: something "
            "else held it back (a quota, its priority, a dependency, a reservation, GPUs spread over nodes)"
        )


def _weeks(best: Reproduction) -> Iterator[str]:
    """Say if the model is wrong in the first week alone."""
    first, *rest = best.weeks
    later = [week.error for week in rest if week.jobs]
    if later and first.error > MOST_ERROR and float(np.median(later)) <= MOST_ERROR:
        yield (
            f"the first week is off by {percent(first.error)}, half of the others by at most "
            f"{percent(float(np.median(later)))}: jobs that already ran when the log began are missing"
        )
