"""Decide when a canary must be rolled back. A canary is a trial: PowerFlow manages the jobs of a few projects.

There are two causes: the scheduler slows down a protected job, or predictions fail twice in a row. The error of a
prediction is log(actual / predicted). Five (`SAMPLE`) jobs of the canary that end one after the other form a sample.
The predictions for a sample have failed (the sample is a *miss*) if the mean error of its jobs is larger than the usual
mean error by more than 2.326 (`BEYOND`) standard errors. If jobs behave as before, 1 % of samples are misses.
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
#: With fewer known outcomes than `LEAST_KNOWN`, the standard deviation of log(actual / predicted) is assumed to be
#: `UNKNOWN_SD`.
LEAST_KNOWN, UNKNOWN_SD = 20, 0.25
#: Smallest standard deviation that is assumed, however similar the outcomes were.
LEAST_SD = 0.05


class Usual(NamedTuple):
    """Describe the usual errors of predictions by the mean and standard deviation of log(actual / predicted)."""

    mean: float
    sd: float


def usually(residuals: Sequence[float]) -> Usual:
    """Return mean and standard deviation of the errors of predictions.

    Args:
        residuals: log(actual / predicted) of each prediction so far. With fewer than 20 (`LEAST_KNOWN`), the result is
            mean 0 and standard deviation 0.25 (`UNKNOWN_SD`).
    """
    n = len(residuals)
    if n < LEAST_KNOWN:
        return Usual(0.0, UNKNOWN_SD)
    mean = sum(residuals) / n
    return Usual(mean, max(LEAST_SD, math.sqrt(sum((r - mean) ** 2 for r in residuals) / (n - 1))))


@dataclass(slots=True)
class CanaryWatch:
    """Detect if predictions for the jobs of a canary (a trial of PowerFlow with some projects) fail too often.

    Five (`SAMPLE`) jobs that end one after the other form a sample. A sample is a *miss* if its mean error, the mean of
    log(actual / predicted), is far above the usual mean error. After two misses in a row, the canary must be rolled
    back.

    Attributes:
        samples: For ``time`` and ``energy``, log(actual / predicted) of the jobs in the unfinished sample.
        misses: For ``time`` and ``energy``, the number of misses since the last sample that was not a miss.
        verdict: The reason to roll the canary back, in words; "" if there is none.
    """

    samples: dict[str, list[float]] = field(default_factory=lambda: {"time": [], "energy": []})
    misses: dict[str, int] = field(default_factory=lambda: {"time": 0, "energy": 0})
    verdict: str = ""

    def see(self, what: str, residual: float, usual: Usual | None) -> None:
        """Record the error of the prediction for a job that has ended.

        Args:
            what: What was predicted: ``time`` or ``energy``.
            residual: log(actual / predicted) of the job.
            usual: The usual errors of predictions when the canary began; None if they are unknown.
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
            self.verdict = f"{what} of jobs missed its prediction twice in a row: {off}, where {usually_off} is usual"


def held_back(scheduler: Scheduler, now_s: float) -> dict[str, float]:
    """Return the seconds by which the scheduler has delayed protected jobs behind their promises, by job id.

    The promise to a protected job: it ends within (1 + its allowed slowdown) times the time that it takes alone. Only
    jobs that are behind this promise by more than a small allowed delay are in the result. A job that waits for GPUs of
    unmanaged jobs or of other protected jobs is left out.
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
