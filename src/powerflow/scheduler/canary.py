"""When a canary is to be taken back: it slows a protected job, or jobs do worse than was predicted, twice running.

Every so many ended jobs are a sample. One job may be unlucky; that the mean of a sample is worse than nearly all such
means would be, if the canary's jobs were like those before, is a miss. Two misses running are no accident.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from powerflow.policy.levels import requested_gpus
from powerflow.scheduler.rules.protection import Protection
from powerflow.scheduler.rules.wrapper import layer
from powerflow.scheduler.scheduler import Scheduler

#: Jobs of a sample.
SAMPLE = 5
#: A miss is beyond this many standard errors: 1 % of samples are, by chance.
BEYOND = 2.326
#: Before so many outcomes are known, errors of predictions are taken to have this standard deviation (of the log).
LEAST_KNOWN, UNKNOWN_SD = 20, 0.25
#: However alike outcomes have been, the next may differ by so much.
LEAST_SD = 0.05


class Usual(NamedTuple):
    """How predictions are off when nothing is wrong: mean and standard deviation of log(actual / predicted)."""

    mean: float
    sd: float


def usually(residuals: Sequence[float]) -> Usual:
    """What is usual by the outcomes so far."""
    n = len(residuals)
    if n < LEAST_KNOWN:
        return Usual(0.0, UNKNOWN_SD)
    mean = sum(residuals) / n
    return Usual(mean, max(LEAST_SD, math.sqrt(sum((r - mean) ** 2 for r in residuals) / (n - 1))))


@dataclass(slots=True)
class CanaryWatch:
    """What has been seen of one canary.

    Attributes:
        samples: For time and energy, log(actual / predicted) of ended jobs that make no whole sample yet.
        misses: Of the last samples, running.
        verdict: Why it is to be taken back; "": it is not.
    """

    samples: dict[str, list[float]] = field(default_factory=lambda: {"time": [], "energy": []})
    misses: dict[str, int] = field(default_factory=lambda: {"time": 0, "energy": 0})
    verdict: str = ""

    def see(self, what: str, residual: float, usual: Usual | None) -> None:
        """A job has ended.

        Args:
            what: ``time`` or ``energy``.
            residual: log(actual / predicted).
            usual: As it was when the canary began; None: not known.
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
    """Protected jobs that do not run as submitted and are behind their promise: seconds behind, by job.

    Not those that wait because jobs hold the GPUs that nobody acts on, or other protected ones.
    """
    found = {}
    for name, pool in scheduler.pools.items():
        protected = layer(scheduler.policies[name], Protection)
        if protected is None or not pool.guarded - pool.untouched:
            continue
        view = scheduler.view(pool, now_s)
        jobs, need = view.jobs, requested_gpus(view)
        taken = int(jobs["gpus"][jobs["protected"] | jobs["untouched"]].sum())
        for row, behind_s in protected.held_back_s(view).items():
            if not jobs["untouched"][row] and need[row] <= view.capacity - taken + int(jobs["gpus"][row]):
                found[scheduler.ledger.job(pool.active[row]).id] = behind_s
    return found
