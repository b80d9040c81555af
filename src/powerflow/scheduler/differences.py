"""Compare a new allocation with the present one, job by job."""

from __future__ import annotations

from powerflow.arrays import BoolArray, IntArray
from powerflow.kernel import kernel

SAME, RECLOCKED, MOVED = 0, 1, 2


@kernel
def compare(
    had: IntArray,
    had_clock: IntArray,
    has: IntArray,
    clock: IntArray,
    evicted: BoolArray,
    how: IntArray,
) -> None:
    """Set ``how[j]`` to `RECLOCKED` or `MOVED` for jobs that change; the other entries must be `SAME` (0) before.

    With ``evicted[j]`` the job must leave the GPUs that it holds, even if it gets as many.
    """
    for j in range(len(has)):
        if has[j] != had[j] or (evicted[j] and has[j] > 0):
            how[j] = MOVED
        elif has[j] > 0 and clock[j] != had_clock[j]:
            how[j] = RECLOCKED


@kernel
def list_changed(
    slots: IntArray,
    had: IntArray,
    has: IntArray,
    had_clock: IntArray,
    clock: IntArray,
    how: IntArray,
    rows: IntArray,
) -> int:
    """List the jobs that do not stay the `SAME`, and return how many there are.

    Args:
        slots: ``[J]`` slots.
        had, has: ``[J]`` GPUs before and after.
        had_clock, clock: ``[J]`` clock indices before and after; without meaning for jobs without GPUs.
        how: ``[J]`` from `compare`.
        rows: ``[J, 6]`` result: one row of the arguments above, in this order, for each job that changes.
    """
    count = 0
    for j in range(len(how)):
        if how[j] != SAME:
            row = rows[count]
            row[0], row[1], row[2], row[3], row[4], row[5] = slots[j], had[j], has[j], had_clock[j], clock[j], how[j]
            count += 1
    return count
