"""Choose what the jobs of a log trained, so that their modelled power is near their measured power.

A log does not name models. Without measurements a replay draws every family of the catalogue that scales to a job's
GPUs with equal probability. With them, family and batch k of a job on n GPUs has the probability

    p(k) ∝ prior(k) · exp(−½ · (ln(measured watts of a GPU ÷ catalogue watts of a GPU of k on n GPUs) / σ)²)

σ is `WIDTH`, the standard deviation by which a replay varies the parameters of each family: a site's own model differs
by as much from its family. A smaller σ would take the catalogue for exact, a larger one would allow families of half
the power. Where no family is near, the nearest one wins, and the measured ÷ modelled energy corrects the rest.

A job without a measurement takes the measured power of a random job that resembles it: of the same user and name, else
of the same user, else of the same name, else any measured job.

All jobs of one user and name use the same random number in a draw. So jobs that draw alike get one family in a draw,
and the draws differ as much as the knowledge of it allows: independent choices would cancel out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.catalogue import axes_for, families, family, family_model
from powerflow.cost.tabulate import tabulate
from powerflow.cost.vary import VARIATION
from powerflow.trace.record import Trace, TraceJob

#: Standard deviation of ln(measured ÷ catalogue power of a GPU) for the right family.
WIDTH = VARIATION
#: Fewest samples of a batch for each GPU, as where a replay draws batches.
_LEAST_SAMPLES = 16


class FamilyChooser:
    """Chooses model families of jobs by their measured power."""

    def __init__(self, trace: Trace, power_w: FloatArray, gpu_type: str, gpus_per_node: int) -> None:
        """Prepare the choice.

        Args:
            trace: The log.
            power_w: ``[J]`` measured watts of a GPU of each job; nan where it was not measured.
            gpu_type: Type of all GPUs, as in the catalogue.
            gpus_per_node: GPUs of a full node.
        """
        self._power_w = power_w
        self._gpu_type, self._gpus_per_node = gpu_type, gpus_per_node
        self._alike: dict[tuple[str, str], list[int]] = {}
        for i in np.flatnonzero(np.isfinite(power_w)).tolist():
            for key in _kinship(trace.jobs[i]):
                self._alike.setdefault(key, []).append(i)
        self._choices = cache(self._choices_on)

    def chosen(self, jobs: Sequence[TraceJob], positions: Sequence[int], seed: Sequence[int]) -> list[TraceJob]:
        """Return jobs with a model family and a global batch, chosen at random.

        Args:
            jobs: Jobs of a part of the log. A job whose log names its model is returned as it is.
            positions: Position of each of these jobs in the whole log.
            seed: Seed of the random choice.
        """
        return [
            job if job.model is not None else self._with_family(job, i, seed)
            for job, i in zip(jobs, positions, strict=True)
        ]

    def _with_family(self, job: TraceJob, position: int, seed: Sequence[int]) -> TraceJob:
        rng = np.random.default_rng([*seed, *_kinship(job)[0][1].encode()])
        choice = float(rng.random())
        power_w = float(self._power_w[position])
        if math.isnan(power_w):
            donors = next((self._alike[key] for key in _kinship(job) if key in self._alike), [])
            own = np.random.default_rng([*seed, position])
            power_w = float(self._power_w[donors[own.integers(len(donors))]]) if donors else math.nan
        names, watts, prior = self._choices(job.gpus)
        odds = prior if math.isnan(power_w) else prior * likelihood(power_w, watts)
        at = int(np.searchsorted(np.cumsum(odds) / odds.sum(), choice, side="right"))
        name, batch = names[min(at, len(names) - 1)]
        return replace(job, model=name, global_batch=batch)

    def _choices_on(self, gpus: int) -> tuple[list[tuple[str, int]], FloatArray, FloatArray]:
        """Return families and batches on a GPU count, ordered by power; their watts of a GPU; their prior."""
        every = [family(name) for name in sorted(families())]
        able = [each for each in every if each.gpus_max >= gpus] or every
        axes = axes_for(self._gpu_type, self._gpus_per_node, [gpus])
        found = []
        for each in able:
            usual = [batch for batch in each.global_batches if batch >= _LEAST_SAMPLES * gpus]
            for batch in usual or [max(each.global_batches)]:
                table = tabulate(family_model(each.name, self._gpu_type), axes, batch)
                watts = float(table.power_w[0, -1]) / gpus
                found.append((watts, each.name, batch, 1.0 / len(usual or [0])))
        found.sort()
        return (
            [(name, batch) for _, name, batch, _ in found],
            np.array([watts for watts, *_ in found]),
            np.array([prior for *_, prior in found]),
        )


def likelihood(measured_w: float, watts: FloatArray) -> FloatArray:
    """Return how likely a measured power of a GPU is for each catalogue power, up to a common factor.

    The largest value is 1, so that something is left where no family is near.
    """
    log = -0.5 * (np.log(measured_w / watts) / WIDTH) ** 2
    odds: FloatArray = np.exp(log - log.max())
    return odds


def _kinship(job: TraceJob) -> list[tuple[str, str]]:
    """Return the groups to which a job belongs, the closest one first."""
    user = job.user or job.project
    return [("user and name", f"{user}\n{job.name}"), ("user", user), ("name", job.name), ("all", "")]
