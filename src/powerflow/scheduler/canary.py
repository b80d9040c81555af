"""Decide when a canary must be rolled back: when it slows a protected job, or when predictions fail twice in a row.

Every `SAMPLE` jobs of the canary that end form a sample. The sample is a miss if the mean of log(actual / predicted)
is larger than the usual mean by more than `BEYOND` standard errors; with jobs as before, 1 % of samples are misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from powerflow.policy.levels import requested_gpus
from powerflow.scheduler.rules.protection import Protection
from powerflow.scheduler.rules.wrapper import find_wrapper
from powerflow.scheduler.scheduler import Scheduler

SAMPLE = 5
BEYOND = 2.326
#: With fewer known outcomes than this, the standard deviation of log(actual / predicted) is taken to be `UNKNOWN_SD`.
LEAST_KNOWN, UNKNOWN_SD = 20, 0.25
#: Smallest standard deviation that is assumed, however similar the outcomes were.
LEAST_SD = 0.05


class Usual(NamedTuple):
    """Usual errors of predictions: mean and standard deviation of log(actual / predicted)."""

    mean: float
    sd: float


def usually(residuals: Sequence[float]) -> Usual:
    """Return the usual errors, from the residuals so far."""
    n = len(residuals)
    if n < LEAST_KNOWN:
        return Usual(0.0, UNKNOWN_SD)
    mean = sum(residuals) / n
    return Usual(mean, max(LEAST_SD, math.sqrt(sum((r - mean) ** 2 for r in residuals) / (n - 1))))


@dataclass(slots=True)
class CanaryWatch:
    """Watches the predictions for one canary.

    Attributes:
        samples: For time and energy, log(actual / predicted) of the jobs in the unfinished sample.
        misses: For time and energy, the number of misses in a row.
        verdict: Why the canary must be rolled back; "" if it need not.
    """

    samples: dict[str, list[float]] = field(default_factory=lambda: {"time": [], "energy": []})
    misses: dict[str, int] = field(default_factory=lambda: {"time": 0, "energy": 0})
    verdict: str = ""

    def see(self, what: str, residual: float, usual: Usual | None) -> None:
        """Record a job that has ended.

        Args:
            what: ``time`` or ``energy``.
            residual: log(actual / predicted) of the job.
            usual: The usual errors when the canary began; None if unknown.
        """
        self.samples[what].append(residual)
        if len(self.samples[what]) < SAMPLE:
            return
        mean = sum(self.samples[what]) / SAMPLE
        self.samples[what].clear()
        usual = usual or usually(())
        if mean <= usual.mean + BEYOND * usual.sd / math.sqrt(SAMPLE):
            self.misses[what] = 0
            return
        self.misses[what] += 1
        if self.misses[what] >= 2:
            off, usually_off = f"{math.expm1(mean):+.0%}", f"{math.expm1(usual.mean):+.0%}"
            self.verdict = f"{what} of jobs missed its prediction twice running: {off}, where {usually_off} is usual"


def held_back(scheduler: Scheduler, now_s: float) -> dict[str, float]:
    """Return, by job, how many seconds the scheduler has put protected jobs behind their promises.

    Jobs that wait for GPUs of unmanaged or other protected jobs are left out.
    """
    found = {}
    for name, pool in scheduler.pools.items():
        protected = find_wrapper(scheduler.policies[name], Protection)
        if protected is None or not pool.guarded - pool.unmanaged:
            continue
        view = scheduler.view(pool, now_s)
        jobs, need = view.jobs, requested_gpus(view)
        taken = int(jobs["gpus"][jobs["protected"] | jobs["unmanaged"]].sum())
        for row, behind_s in protected.held_back_s(view).items():
            if not jobs["unmanaged"][row] and need[row] <= view.capacity - taken + int(jobs["gpus"][row]):
                found[scheduler.ledger.job(pool.active[row]).id] = behind_s
    return found
