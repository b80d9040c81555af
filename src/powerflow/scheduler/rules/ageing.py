"""Prevent starvation: a job that has waited for a long time runs for some minutes, even if the policy would not run it.

Weights that grow with waiting time cannot guarantee this: as long as weights are limited, other jobs can outbid them.
So there is a rule. A job that has waited for ``patience_s`` seconds gets a *turn*: the fewest GPUs that it can run on,
for ``turn_s`` seconds. The job that has waited longest is first. After its turn, the policy decides about this job as
about any other job. If the policy stops the job, its waiting time starts again from zero.

If K other jobs have waited longer, a job waits at most ``patience + (K + 1)·(turn + period)`` seconds, where ``period``
is the longest time between two decisions. The reason: no job that came later is served first, and the first job in the
queue waits only for turns that have already begun, each at most ``turn + period`` long. This holds for jobs that can
run on the GPUs that are up and not promised to protected jobs.
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
from powerflow.scheduler.rules.wrapper import Wrapper
from powerflow.units import HOUR_S

PATIENCE_S = 12 * HOUR_S
PERIOD_S = 300.0  # longest time between decisions, so that turns end


class Ageing(Wrapper):
    """Let jobs that have waited for a long time run on their fewest GPUs for some minutes (a *turn*).

    Args:
        inner: The policy that decides about all other jobs.
        patience_s: Seconds that a job waits before it gets a turn.
        turn_s: Seconds that a turn lasts.
        share: Largest share of the GPUs that all turns together may take. One job may have its turn even if it needs
            more.

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
        super().__init__(inner)
        self.patience_s = patience_s
        self.turn_s = turn_s
        self.share = share
        self.name = f"{inner.name}+ageing"
        self.period_s = min(PERIOD_S, inner.period_s or math.inf)
        self._turns: dict[int, float] = {}  # start of each turn by job id

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer, changed so that jobs that have waited for a long time run.

        The inner policy decides again about all other jobs, on the GPUs that are left.
        """
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
        """Return how many GPUs each of J jobs must get at least, ``[J]``: 0 unless it has waited for a long time."""
        jobs, now_s = view.jobs, view.now_s
        floor = np.zeros(len(jobs), np.int64)
        waits = jobs["gpus"] == 0
        due = waits & (now_s - jobs["since_s"] >= self.patience_s)
        ids: list[int] = jobs["id"].tolist()
        # a turn of this very moment stays, although its job still waits: the same decision may ask more than once
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
    """Return the smallest GPU count on which each of the J jobs can run, ``[J]``; 0 if a job cannot run."""
    level = least_levels(feasible(view, step_times(view)))
    return np.where(level >= 0, view.gpu_counts[level], 0).astype(np.int64)
