"""Nothing starves: who has waited for long enough gets a turn, whatever the policy thinks of it.

Weights cannot promise this. A weight that grows with waiting and is bounded can be outbid for ever; and to `prices` a
heavy job that waits makes the small jobs before it worth more, not less. So the promise is a rule: a job that has
waited for its patience, the longest wait first, gets the fewest GPUs it can run on, and keeps them for a turn. Then it
is again one among many; if it is stopped, it waits anew, at the end of the line.

How long a job waits at most: with K jobs that have waited longer, ``patience + (K + 1)·(turn + period)``. For nobody
comes before it who came after it; the first in the line waits only for turns that have begun, none longer than
``turn + period``; and then it starts, if it can run on the GPUs that are up and not promised to protected jobs.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from powerflow.arrays import IntArray
from powerflow.errors import InputError
from powerflow.policy.levels import feasible, held_gpus, least_levels, step_times
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.partial import decide_rest
from powerflow.units import HOUR_S

PATIENCE_S = 12 * HOUR_S
PERIOD_S = 300.0  # decisions come at least this often, so that turns end


class Ageing:
    """Any policy, with turns for jobs that it leaves waiting.

    Args:
        inner: The policy.
        patience_s: Seconds of waiting until a job is due for a turn.
        turn_s: Seconds it then keeps its GPUs.
        share: Of the GPUs that are up, what turns may take; one job may always have its turn.

    Raises:
        InputError: A time is not positive, or the share is not between 0 and 1.
    """

    def __init__(
        self, inner: Policy, *, patience_s: float = PATIENCE_S, turn_s: float = 600.0, share: float = 0.25
    ) -> None:
        for what, seconds in (("patience", patience_s), ("turn", turn_s)):
            if not 0 < seconds < math.inf:
                raise InputError(f"{what} {seconds!r} is not a time", fix="give seconds, more than 0")
        if not 0 <= share <= 1:
            raise InputError(f"share {share!r} is not between 0 and 1", fix="0.25 is a quarter of the GPUs")
        self.inner = inner
        self.patience_s = patience_s
        self.turn_s = turn_s
        self.share = share
        self.name = f"{inner.name}+ageing"
        self.needs_sizes = inner.needs_sizes
        self.period_s: float | None = min(PERIOD_S, inner.period_s or math.inf)
        self._turns: dict[int, float] = {}  # by row id: when its turn began

    def decide(self, view: View) -> Allocation:
        """The inner policy's answer, with turns given where they are due."""
        wish = self.inner.decide(view)
        floor = self._floors(view)
        short = wish.gpus < floor
        if not short.any():
            return wish
        fixed = floor > 0
        gpus = np.where(fixed, np.maximum(wish.gpus, floor), 0)
        if gpus.sum() > view.capacity:
            gpus = floor
        answer = replace(wish, gpus=gpus, clock=np.where(short, view.clock_max, wish.clock))
        return decide_rest(self.inner, view, answer, fixed)

    def _floors(self, view: View) -> IntArray:
        """GPUs that jobs in a turn have at least, ``[J]``; 0 for the others."""
        jobs, now_s = view.jobs, view.now_s
        floor = np.zeros(len(jobs), np.int64)
        waits = jobs["gpus"] == 0
        due = waits & (now_s - jobs["since_s"] >= self.patience_s)
        ids: list[int] = jobs["id"].tolist()
        # within a moment a turn may be given, and asked about again: the job still waits then
        self._turns = {
            row: began_s
            for row, wait in zip(ids, waits.tolist(), strict=True)
            if (began_s := self._turns.get(row, -math.inf)) > now_s - self.turn_s and (not wait or began_s == now_s)
        }
        if not due.any() and not self._turns:
            return floor
        need = _fewest(view)
        held = held_gpus(view)
        left = max(1, int(self.share * view.capacity))
        in_turn = np.array([row in self._turns for row in ids], np.bool_) & (held > 0)
        floor[in_turn] = held[in_turn]
        if floor.sum() > view.capacity:
            floor[in_turn] = 0
        left -= int(floor.sum())
        order = np.flatnonzero(due)
        for j in order[np.lexsort((jobs["id"][order], jobs["since_s"][order]))].tolist():
            if not 0 < need[j] <= view.capacity:
                continue
            if need[j] > left and floor.any():
                break
            floor[j] = need[j]
            left -= int(need[j])
            self._turns[ids[j]] = now_s
        return floor


def _fewest(view: View) -> IntArray:
    """The fewest GPUs that each job can run on, ``[J]``; 0 if it runs on none."""
    level = least_levels(feasible(view, step_times(view)))
    return np.where(level >= 0, view.gpu_counts[level], 0).astype(np.int64)
