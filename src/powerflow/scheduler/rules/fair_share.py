"""Fair share between projects: who has had more than its share lately weighs less for a while.

Each project's usage, in GPU-seconds, decays with a half-life. Its jobs' weights are multiplied by the fair-share
factor of Slurm's multifactor priority plug-in, ``2^(−U/S)``, here times two so that a project that has just had its
share has factor 1: U is its share of all decayed usage, S its share by right. The factor is at most 2, and never less
than an eighth: a project's past makes its jobs wait, not starve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.units import DAY_S

LEAST_FACTOR = 0.125


def decayed(usage: float, seconds: float, half_life_s: float) -> float:
    """What is left of some usage after so many seconds: half of it after each half-life."""
    return float(usage * 0.5 ** (seconds / half_life_s))


def factors(usage: FloatArray, shares: FloatArray) -> FloatArray:
    """Fair-share factors on weights, ``2^(1 − U/S)`` but at least 1/8, ``[P]``; 1 for all while nothing was used.

    Args:
        usage: ``[P]`` decayed usage of each project, any unit.
        shares: ``[P]`` shares by right, > 0, in any unit.
    """
    total = usage.sum()
    if total <= 0:
        return np.ones(len(usage))
    found: FloatArray = np.maximum(np.exp2(1.0 - (usage / total) / (shares / shares.sum())), LEAST_FACTOR)
    return found


class FairShare:
    """Any policy, with the weights of jobs by what their projects have had.

    Args:
        inner: The policy.
        shares: Share by right of each project; 1 where none is given. Jobs of no project keep their weight.
        half_life_s: Seconds in which usage counts half.

    Attributes:
        usage_gpu_s: GPU-seconds of each project, decayed to the last decision.

    Raises:
        InputError: A share or the half-life is not positive.
    """

    def __init__(
        self,
        inner: Policy,
        shares: Mapping[str, float] | None = None,
        *,
        half_life_s: float = 7 * DAY_S,
    ) -> None:
        if not 0 < half_life_s < math.inf:
            raise InputError(f"half-life {half_life_s!r} is not a time", fix="give seconds, more than 0")
        for name, share in (shares or {}).items():
            if not 0 < share < math.inf:
                raise InputError(f"share {share!r} of project {name!r} is not positive", fix="give a number > 0")
        self.inner = inner
        self.half_life_s = half_life_s
        self.name = f"{inner.name}+fair"
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s
        self.shares = dict(sorted((shares or {}).items()))
        self.usage_gpu_s = dict.fromkeys(self.shares, 0.0)
        self._seen_s = math.nan
        self._given: dict[int, tuple[str, int]] = {}  # by row id: project, and GPUs as answered last

    def decide(self, view: View) -> Allocation:
        """The inner policy's answer to a view with other weights."""
        self._account(view)
        jobs = view.jobs.copy()
        jobs["weight"] *= self._factors(view)
        jobs.flags.writeable = False
        answer = self.inner.decide(replace(view, jobs=jobs))
        self._given |= _held(view, answer.gpus)
        return answer

    def factors(self) -> dict[str, float]:
        """Each project's factor on its jobs' weights now."""
        usage, shares = np.array([*self.usage_gpu_s.values()]), np.array([*self.shares.values()])
        return dict(zip(self.shares, factors(usage, shares).tolist(), strict=True))

    def _factors(self, view: View) -> FloatArray:
        """Of each job, ``[J]``."""
        of = self.factors()
        found: FloatArray = np.array([of.get(name, 1.0) for name in view.projects])[view.jobs["project"]]
        return found

    def _account(self, view: View) -> None:
        """Charge projects for the GPUs that their jobs have held since the last decision.

        Of jobs that ended meanwhile nobody says how many they were or for how long: they count with what was answered,
        to the end. Within one moment only the first view is looked at; others, of some of the jobs, may follow.
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
    """By row id: the project of a job, and its GPUs out of ``gpus``, ``[J]``."""
    jobs = view.jobs
    columns = jobs["id"].tolist(), jobs["project"].tolist(), gpus.tolist()
    return {row: (view.projects[code], count) for row, code, count in zip(*columns, strict=True)}
