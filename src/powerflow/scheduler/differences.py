"""What a policy's answer changes, job by job."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from powerflow.cost.table import IntArray

SAME, RECLOCKED, MOVED = 0, 1, 2


class Difference(NamedTuple):
    """One job's allocation before and after a decision.

    Attributes:
        slot: Its handle.
        had, has: GPUs before and after.
        had_clock, clock: Indices of its clocks before and after; without meaning where it holds no GPU.
        how: `RECLOCKED` or `MOVED`.
    """

    slot: int
    had: int
    had_clock: int
    has: int
    clock: int
    how: int


@njit(cache=True)
def compare(
    had: IntArray, had_clock: IntArray, has: IntArray, clock: IntArray, evicted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int8]:
    """For each job whether it stays the `SAME`, is only `RECLOCKED`, or `MOVED`; ``[J]``.

    ``evicted[j]``: the job must leave the GPUs it holds, even if it is given as many.
    """
    how = np.zeros(len(has), np.int8)
    for j in range(len(has)):
        if has[j] != had[j] or (evicted[j] and has[j] > 0):
            how[j] = MOVED
        elif has[j] > 0 and clock[j] != had_clock[j]:
            how[j] = RECLOCKED
    return how


@njit(cache=True)
def rows_of_changed(
    slots: IntArray,
    had: IntArray,
    had_clock: IntArray,
    has: IntArray,
    clock: IntArray,
    how: npt.NDArray[np.int8],
) -> IntArray:
    """One row with the fields of `Difference` for each job that does not stay the `SAME`."""
    rows = np.empty((len(how), 6), np.int64)
    count = 0
    for j in range(len(how)):
        if how[j] != SAME:
            row = rows[count]
            row[0], row[1], row[2], row[3], row[4], row[5] = slots[j], had[j], had_clock[j], has[j], clock[j], how[j]
            count += 1
    return rows[:count]
