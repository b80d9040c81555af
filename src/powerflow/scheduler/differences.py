"""What a policy's answer changes, job by job."""

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
    """For each job whether it stays the `SAME`, is only `RECLOCKED`, or `MOVED`: ``how``, ``[J]`` zeros before.

    ``evicted[j]``: the job must leave the GPUs it holds, even if it is given as many.
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
    """Note each job that does not stay the `SAME`; how many there are.

    Args:
        slots: ``[J]`` its slot.
        had, has: ``[J]`` GPUs before and after.
        had_clock, clock: ``[J]`` indices of its clocks; without meaning where it holds no GPU.
        how: ``[J]`` as from `compare`.
        rows: ``[J, 6]`` out: of those that change, all of this in this order.
    """
    count = 0
    for j in range(len(how)):
        if how[j] != SAME:
            row = rows[count]
            row[0], row[1], row[2], row[3], row[4], row[5] = slots[j], had[j], has[j], had_clock[j], clock[j], how[j]
            count += 1
    return count
