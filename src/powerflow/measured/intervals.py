"""Cut the time of a recording into intervals, and leave out those that are not steady training.

With a step counter, an interval lies between two moments at which the counter moved; without one, between two readings
of a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.measured.integrals import GAP, at, between
from powerflow.measured.recording import Quantity, Recording, Series

#: Fewest intervals of a configuration.
FEWEST = 3
#: An interval at the beginning (or after a pause) is warm-up while its iterations are slower than usual by this factor.
WARM = 1.25
#: An interval has a pause in it if its iterations are slower than usual by this factor; and a jump of the counter, if
#: they are faster by the second factor.
PAUSE, JUMP = 1.75, 3.0
#: A GPU that works for less than this share of the time is idle.
BUSY = 0.05
#: Watts below this multiple of the type's idle draw are those of an idle GPU.
IDLE = 1.25
#: Without a step counter, the first intervals are warm-up while the watts are below this share of the usual ones.
COLD = 0.8
#: How often the usual time of an iteration is judged anew without pauses and jumps.
_ROUNDS = 3


class LeftOut(StrEnum):
    """Why an interval is left out."""

    IDLE = "idle"
    PAUSE = "with a pause or a gap"
    JUMP = "with a jump of the step counter"
    WARM = "in warm-up"
    CHANGE = "in which the clock or the power limit changed"
    FEW = f"at a clock with fewer than {FEWEST} intervals"


@dataclass(frozen=True, slots=True, eq=False)
class RunIntervals:
    """Intervals in order of time, as columns of M values.

    Attributes:
        start_s, end_s: Start and end.
        steps: Iterations in each; nan throughout if there is no step counter.
        apart_s: Usual time between two readings of the step counter, or of a GPU.
        why: Why it is left out: a `LeftOut`, or "" for steady training. Functions of this module fill it in.
    """

    start_s: FloatArray
    end_s: FloatArray
    steps: FloatArray
    apart_s: float
    why: np.ndarray

    @property
    def kept(self) -> BoolArray:
        """Return True for each interval that is not left out."""
        kept: BoolArray = self.why == ""
        return kept

    @property
    def lasts_s(self) -> FloatArray:
        """Return how long each interval takes, in seconds."""
        return self.end_s - self.start_s


def counted_intervals(steps: Series, where: str) -> RunIntervals:
    """Return the intervals between the moments at which a step counter moved.

    Those in which it fell are left out.

    Raises:
        InputError: The counter hardly moves, falls as often as it rises, or does not count whole steps.
    """
    whole = steps.value == np.round(steps.value)
    if (~whole).sum() > 0.1 * len(whole):
        raise InputError("its step counter has fractions of a step", where=where, fix="name another: --step-metric")
    moved = np.append(True, np.diff(steps.value[whole]) != 0)[: whole.sum()]
    time_s, count = steps.time_s[whole][moved], steps.value[whole][moved]
    forward = np.diff(count) > 0
    if forward.sum() < FEWEST or forward.mean() < 0.5:
        what = "falls often" if (~forward).sum() > forward.sum() else f"rises only {int(forward.sum())} times"
        raise InputError(
            f"its step counter {what}", where=where, fix="give a longer time, or name another counter: --step-metric"
        )
    why = np.full(len(forward), "", dtype=object)
    why[~forward] = LeftOut.JUMP
    return RunIntervals(time_s[:-1], time_s[1:], np.diff(count), float(np.median(np.diff(steps.time_s))), why)


def busy_intervals(recording: Recording, where: str, idle_w: float | None) -> RunIntervals:
    """Return the intervals between the readings of the GPU that has most of them.

    Those in which no GPU works, and gaps between readings, are left out.

    Args:
        recording: Readings of GPUs.
        where: Place for messages.
        idle_w: Watts of an idle GPU; None if they are not known.

    Raises:
        InputError: There are too few readings, or they do not tell whether a GPU works.
    """
    what = Quantity.POWER if any(Quantity.POWER in of for of in recording.gpus.values()) else Quantity.ENERGY
    series = max((of[what] for of in recording.gpus.values() if what in of), key=lambda s: len(s.time_s), default=None)
    if series is None or len(series.time_s) < FEWEST + 1:
        raise InputError(f"has fewer than {FEWEST + 1} readings of a GPU", where=where)
    start_s, end_s = series.time_s[:-1], series.time_s[1:]
    working = _working(recording, series.time_s, idle_w)
    if working is None:
        raise InputError(
            "has neither a step counter nor the utilisation of its GPUs, so idle GPUs cannot be told from training",
            where=where,
            fix="add utilization.gpu (GPUTL), or give --gpu-type of a type in the catalogue",
        )
    why = np.full(len(start_s), "", dtype=object)
    why[~(working[:-1] & working[1:])] = LeftOut.IDLE
    usual_s = float(np.median(end_s - start_s))
    why[end_s - start_s > GAP * usual_s] = LeftOut.PAUSE
    return RunIntervals(start_s, end_s, np.full(len(start_s), np.nan), usual_s, why)


def _working(recording: Recording, time_s: FloatArray, idle_w: float | None) -> BoolArray | None:
    """Return True for each moment at which some GPU works; None if the readings do not tell it."""
    shares = [at(of[Quantity.BUSY], time_s) for of in recording.gpus.values() if Quantity.BUSY in of]
    if shares:
        busy: BoolArray = np.nan_to_num(np.array(shares)).max(axis=0) >= BUSY
        return busy
    watts = [at(of[Quantity.POWER], time_s) for of in recording.gpus.values() if Quantity.POWER in of]
    if idle_w is None or not watts:
        return None
    draws: BoolArray = np.nan_to_num(np.array(watts)).max(axis=0) > IDLE * idle_w
    return draws


def leave_out_unsteady(found: RunIntervals, labels: IntArray, recording: Recording) -> None:
    """Leave out pauses, jumps of the counter, warm-up, and configurations with too few intervals.

    What is usual is judged within each configuration, because a lower clock is slower and draws less all the time.

    Args:
        found: The intervals.
        labels: Configuration of each interval.
        recording: Readings of GPUs; their watts tell warm-up where there is no step counter.
    """
    counted = bool(np.isfinite(found.steps).all())
    watts = np.nansum([_mean_power(of, found.start_s, found.end_s) for of in recording.gpus.values()], axis=0)
    _leave_out_few(found, labels)
    unusual = np.zeros(len(labels), bool)
    for label in np.unique(labels[found.kept]):
        mine = labels == label
        if counted:
            unusual |= mine & _slow(found, mine)
        else:
            unusual |= mine & (watts < COLD * float(np.median(watts[mine & found.kept])))
    _leave_out_warm_up(found.why, unusual)
    _leave_out_few(found, labels)


def _leave_out_few(found: RunIntervals, labels: IntArray) -> None:
    numbers, counts = np.unique(labels[found.kept], return_counts=True)
    found.why[found.kept & np.isin(labels, numbers[counts < FEWEST])] = LeftOut.FEW


def _slow(found: RunIntervals, mine: BoolArray) -> BoolArray:
    """Leave out pauses and jumps of one configuration; return True for intervals that are slow enough for warm-up.

    The moment at which a counter moved is known to a reading, and the number of its steps to one: an interval is slow
    only beyond the shorter of both times.
    """
    kept = mine & found.kept
    most = PAUSE * float(np.median(found.steps[kept]))  # so that a jump of the counter does not outweigh the rest
    usual_s = _weighted_median(found.lasts_s[kept] / found.steps[kept], np.minimum(found.steps[kept], most))
    for _ in range(_ROUNDS):
        margin_s = min(found.apart_s, usual_s)
        expected_s = found.steps * usual_s
        paused = found.lasts_s > PAUSE * expected_s + 2.0 * margin_s
        jumped = found.lasts_s < expected_s / JUMP
        steady = kept & ~paused & ~jumped
        if not steady.any():
            break
        usual_s = float(found.lasts_s[steady].sum() / found.steps[steady].sum())
    found.why[kept & jumped] = LeftOut.JUMP
    changed = found.why == LeftOut.CHANGE  # an evaluation has other clocks
    found.why[mine & (found.kept | changed) & paused] = LeftOut.PAUSE
    slow: BoolArray = found.lasts_s > WARM * expected_s + margin_s
    return slow


def _leave_out_warm_up(why: np.ndarray, unusual: BoolArray) -> None:
    """Leave out unusual intervals at the beginning, and after each interval that is left out."""
    starting, trained = True, False
    for i in range(len(why)):
        if why[i] == LeftOut.PAUSE and not trained:
            why[i] = LeftOut.WARM  # nothing was there that could pause
        elif why[i] != "":
            starting = True
        elif starting and unusual[i]:
            why[i] = LeftOut.WARM
        else:
            starting, trained = False, True


def _mean_power(of: Mapping[Quantity, Series], start_s: FloatArray, end_s: FloatArray) -> FloatArray:
    """Return the mean watts of a GPU in each interval; nan where they are not known."""
    what = Quantity.POWER if Quantity.POWER in of else Quantity.ENERGY
    if what not in of:
        return np.full(len(start_s), np.nan)
    return between(of[what], start_s, end_s, counter=what is Quantity.ENERGY) / (end_s - start_s)


def _weighted_median(values: FloatArray, weights: FloatArray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
