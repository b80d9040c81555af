"""Share the cluster fairly between projects: jobs of projects with much recent GPU time get lower weights.

The usage of a project is its GPU-seconds, where older GPU-seconds count less: half after each half-life. The weights of
the project's jobs are multiplied by the factor ``2^(1 − U/S)``. U is the project's part of the usage of all projects,
and S is the part that it is entitled to. This is the fair-share factor of Slurm's multifactor priority plug-in, times
two, so that a project with U = S has the factor 1. The factor is between 1/8 and 2: past usage makes jobs wait, but
not for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.wrapper import Wrapper
from powerflow.units import DAY_S

LEAST_FACTOR = 0.125


def decayed(usage: float, seconds: float, half_life_s: float) -> float:
    """Return how much of a usage still counts after some seconds: half after each half-life."""
    return float(usage * 0.5 ** (seconds / half_life_s))


def factors(usage: FloatArray, shares: FloatArray) -> FloatArray:
    """Return the factor on the weights of each project's jobs, ``[P]`` for P projects: ``max(1/8, 2^(1 − U/S))``.

    U is the project's part of the usage of all projects, and S is the part that it is entitled to. All factors are 1 as
    long as no project has used anything.

    Args:
        usage: ``[P]`` past usage of each project that still counts, in any unit.
        shares: ``[P]`` what each project is entitled to, compared with the others; > 0, in any unit.
    """
    total = usage.sum()
    if total <= 0:
        return np.ones(len(usage))
    found: FloatArray = np.maximum(np.exp2(1.0 - (usage / total) / (shares / shares.sum())), LEAST_FACTOR)
    return found


class FairShare(Wrapper):
    """Let a policy see lower weights for jobs of projects that have recently used more GPU time than others.

    Jobs without a project keep their weight.

    Args:
        inner: The policy.
        shares: By project, what it is entitled to, compared with other projects; 1 for projects that are not listed.
        half_life_s: Seconds after which used GPU time counts half.

    Attributes:
        usage_gpu_s: GPU-seconds of each project that still counted at the last decision.

    Raises:
        InputError: A share or the half-life is not positive.
    """

    def __init__(
        self, inner: Policy, shares: Mapping[str, float] | None = None, *, half_life_s: float = 7 * DAY_S
    ) -> None:
        if not 0 < half_life_s < math.inf:
            raise InputError(f"half-life {half_life_s!r} is not a time", fix="give seconds, more than 0")
        for name, share in (shares or {}).items():
            if not 0 < share < math.inf:
                raise InputError(f"share {share!r} of project {name!r} is not positive", fix="give a number > 0")
        super().__init__(inner)
        self.half_life_s = half_life_s
        self.name = f"{inner.name}+fair"
        self.shares = dict(sorted((shares or {}).items()))
        self.usage_gpu_s = dict.fromkeys(self.shares, 0.0)
        self._seen_s = math.nan
        self._given: dict[int, tuple[str, int]] = {}  # by job id: project, and GPUs of the last answer

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer to a view with weights that depend on each project's past usage."""
        self._account(view)
        of = self.factors()
        factor = np.array([of.get(name, 1.0) for name in view.projects])[view.jobs["project"]]
        answer = self.inner.decide(view.with_jobs(weight=view.jobs["weight"] * factor))
        self._given |= _held(view, answer.gpus)
        return answer

    def factors(self) -> dict[str, float]:
        """Return the factors by which the weights of each project's jobs are multiplied."""
        usage, shares = np.array([*self.usage_gpu_s.values()]), np.array([*self.shares.values()])
        return dict(zip(self.shares, factors(usage, shares).tolist(), strict=True))

    def _account(self, view: View) -> None:
        """Add to each project's usage the GPUs that its jobs have held since the last decision.

        A job that has ended since counts for the whole time with the GPUs of the last answer. If there are several
        views of the same moment, only the first view counts: the later views may show only some of the jobs.
        """
        for code in np.unique(view.jobs["project"]).tolist():
            if code and view.projects[code] not in self.shares:
                self.shares[view.projects[code]] = 1.0
                self.usage_gpu_s[view.projects[code]] = 0.0
        if view.now_s > self._seen_s:
            since_s = view.now_s - self._seen_s
            for name in self.usage_gpu_s:
                self.usage_gpu_s[name] = decayed(self.usage_gpu_s[name], since_s, self.half_life_s)
            for project, gpus in (self._given | _held(view, view.jobs["gpus"])).values():
                if gpus and project:
                    self.usage_gpu_s[project] += gpus * since_s
            self._given = {}
        elif not math.isnan(self._seen_s):
            return
        self._seen_s = view.now_s


def _held(view: View, gpus: IntArray) -> dict[int, tuple[str, int]]:
    """Return the project and the GPU count of each job by job id; ``gpus``, ``[J]``, has the GPU counts of J jobs."""
    jobs = view.jobs
    columns = jobs["id"].tolist(), jobs["project"].tolist(), gpus.tolist()
    return {row: (view.projects[code], count) for row, code, count in zip(*columns, strict=True)}
