"""Describe a decision about the jobs of a pool: the new allocation of each job, compared with its present one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.kernel import kernel
from powerflow.policy.protocol import Allocation, View

SAME, RECLOCKED, MOVED = 0, 1, 2


@dataclass(slots=True, eq=False)
class Decision:
    """One decision about the J jobs of a pool.

    Attributes:
        view: The `View` that the policy was given.
        answer: The allocation to carry out: the policy's answer, reduced where a power cap demands it.
        wish: The policy's answer.
        slots: ``[J]`` slot (row in the ledger) of each job.
        how: ``[J]`` change of each job: nothing (`SAME`), its clock (`RECLOCKED`) or its GPUs (`MOVED`).
        changed: One row for each job that changes: slot, GPU counts before and after, clocks before and after,
            `RECLOCKED` or `MOVED`.
        woken, asleep: Names of the nodes that are switched on and off.
        cut: Slots of jobs that go on with fewer GPUs, because a node does not answer.
        drained: Names of the drained nodes that jobs leave, by slot.
    """

    view: View
    answer: Allocation
    wish: Allocation
    slots: IntArray
    how: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    changed: list[list[int]] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    asleep: list[str] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)
    drained: dict[int, tuple[str, ...]] = field(default_factory=dict)


@kernel
def compare(
    had: IntArray,
    had_clock: IntArray,
    has: IntArray,
    clock: IntArray,
    evicted: BoolArray,
    how: IntArray,
) -> None:
    """Find out for each job whether its GPUs change (`MOVED`), only its clock (`RECLOCKED`), or nothing.

    Args:
        had, had_clock: ``[J]`` GPU counts and clock indices of the J jobs now.
        has, clock: ``[J]`` new GPU counts and clock indices.
        evicted: ``[J]`` True if the job must leave its GPUs, even if its GPU count stays the same.
        how: ``[J]`` result: `RECLOCKED` or `MOVED`. Entries of other jobs are left as they are; they must be `SAME`
            (0) before the call.
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
    """List the jobs whose allocation changes, and return the number of these jobs.

    Args:
        slots: ``[J]`` slot (row in the ledger) of each of the J jobs.
        had, has: ``[J]`` GPU counts before and after.
        had_clock, clock: ``[J]`` clock indices before and after; without meaning for jobs without GPUs.
        how: ``[J]`` what changes, as `compare` found it: `SAME` (0, nothing), `RECLOCKED` or `MOVED`.
        rows: ``[J, 6]`` result: for each job that changes one row with its slot, had, has, had_clock, clock and how.
    """
    count = 0
    for j in range(len(how)):
        if how[j] != SAME:
            row = rows[count]
            row[0], row[1], row[2], row[3], row[4], row[5] = slots[j], had[j], has[j], had_clock[j], clock[j], how[j]
            count += 1
    return count
