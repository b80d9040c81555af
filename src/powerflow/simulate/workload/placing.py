"""Assign a model family of the built-in catalogue, and a global batch, to each job of a trace.

If the catalogue has the model's name, this family is used. Otherwise all jobs with the same model name get the most
similar family: by name, or else by measured step time, or else by global batch. If none of these is known, or if a job
has no model name, the family is drawn at random.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.cost.catalogue import Family, families, family, family_model
from powerflow.cost.model import JobModel, step_time
from powerflow.cost.names import family_alike
from powerflow.cost.tabulate import split_batch
from powerflow.errors import InputError
from powerflow.simulate.workload.workload import Kind
from powerflow.trace.fields import clip
from powerflow.trace.record import TraceJob

_MOST_JOBS = 200  # most jobs of one name that are compared
_NODE_GPUS = 8  # GPUs of a usual node
_MOST_SAID = 6  # most names in a fact


@dataclass(frozen=True, slots=True)
class Placing:
    """The model family and global batch of each job, and how they were chosen.

    Attributes:
        kinds: Family and global batches of each job.
        drawn: Number of jobs whose trace names no model.
        unknown: (name that is not in the catalogue, family, how the family was chosen) → number of jobs.
    """

    kinds: Sequence[Kind]
    drawn: int
    unknown: Mapping[tuple[str, str, str], int]

    def fact(self, seed: int) -> str:
        """Return a sentence that says how models were assigned to jobs."""
        jobs = len(self.kinds)
        said = []
        if self.drawn:
            who = "the trace names none" if self.drawn == jobs else f"the trace names none for {self.drawn:,} jobs"
            said.append(f"{who}: drawn evenly from the catalogue's families (seed {seed})")
        elif not self.unknown:
            return "as named by the trace"
        if self.unknown:
            told = [
                f"{count:,} of {clip(name)} as {kin} (by {how})"
                for (name, kin, how), count in list(self.unknown.items())[:_MOST_SAID]
            ]
            told += [f"and {len(self.unknown) - _MOST_SAID} more names"] * (len(self.unknown) > _MOST_SAID)
            said.append(f"{sum(self.unknown.values()):,} jobs have models not in the catalogue: {', '.join(told)}")
        return "; ".join(said)


def place(
    jobs: Sequence[TraceJob], asked: Sequence[int], gpu_type: str, rng: np.random.Generator, seed: int
) -> Placing:
    """Assign a model family and a global batch to each job.

    A job without a model gets a random family among the families that scale to its requested GPUs. A job without a
    batch gets one of the usual batches of its family, chosen at random among the batches with at least 16 samples per
    requested GPU. If no usual batch is that large, it gets the largest one.

    Args:
        jobs: The jobs as logged.
        asked: Number of GPUs of each job.
        gpu_type: The GPU type on which logged step times are assumed to be measured.
        rng: Random generator for models and batches that the trace does not have.
        seed: Seed with which the family of an unknown name is drawn, if nothing else is known about this name.
    """
    every = [family(name) for name in sorted(families())]
    able = {gpus: [f for f in every if f.gpus_max >= gpus] or every for gpus in set(asked)}
    named: dict[str, Family] = {}
    how: dict[str, str] = {}
    for name in dict.fromkeys(job.model for job in jobs if job.model is not None):
        try:
            named[name] = family(name)
        except InputError:
            own = [(job, gpus) for job, gpus in zip(jobs, asked, strict=True) if job.model == name][:_MOST_JOBS]
            named[name], how[name] = _most_alike(name, own, every, gpu_type, seed)
    kinds: list[Kind] = []
    unknown: Counter[tuple[str, str, str]] = Counter()
    for job, gpus in zip(jobs, asked, strict=True):
        if job.model is None:
            choices = able[gpus]
            model = choices[rng.integers(len(choices))]
        else:
            model = named[job.model]
            if job.model in how:
                unknown[job.model, model.name, how[job.model]] += 1
        batch = job.global_batch or _batch_for(model.global_batches, gpus, rng)
        kinds.append(Kind(model.name, batch, job.batch_range))
    return Placing(kinds, sum(job.model is None for job in jobs), dict(unknown.most_common()))


def _batch_for(batches: Sequence[int], gpus: int, rng: np.random.Generator) -> int:
    fitting = [batch for batch in batches if batch >= 16 * gpus]
    return fitting[rng.integers(len(fitting))] if fitting else max(batches)


def _most_alike(
    name: str, jobs: Sequence[tuple[TraceJob, int]], every: Sequence[Family], gpu_type: str, seed: int
) -> tuple[Family, str]:
    """Return the most similar family for a model name that is not in the catalogue, and how it was chosen."""
    if (kin := family_alike(name)) is not None:
        return family(kin), "name"
    most = max(gpus for _, gpus in jobs)
    able = [kin for kin in every if kin.gpus_max >= most] or list(every)
    if timed := [(job, gpus) for job, gpus in jobs if job.measured_step_s is not None]:
        return min(able, key=lambda kin: _time_distance(kin, timed, gpu_type)), "step time"
    rng = np.random.default_rng([seed, *name.encode()])
    if batches := [job.global_batch for job, _ in jobs if job.global_batch is not None and job.global_batch > 0]:
        far = [_batch_distance(kin, batches) for kin in able]
        nearest = [kin for kin, distance in zip(able, far, strict=True) if distance <= min(far) + 1e-9]
        return nearest[rng.integers(len(nearest))], "batch"
    return able[rng.integers(len(able))], f"draw, seed {seed}"


def _time_distance(kin: Family, jobs: Sequence[tuple[TraceJob, int]], gpu_type: str) -> float:
    """Return how much a family's modelled step times differ from the measured step times of jobs.

    The result is the median of |log(modelled / measured)| over jobs. A job without a batch uses the usual batch that
    fits best.
    """
    model = family_model(kin.name, gpu_type)
    off = []
    for job, gpus in jobs:
        ratios = [
            _step_s(model, batch, gpus) / (job.measured_step_s or math.nan)
            for batch in ((job.global_batch,) if job.global_batch else kin.global_batches)
        ]
        off.append(min(abs(math.log(ratio)) for ratio in ratios))
    return float(np.median(off))


def _step_s(model: JobModel, global_batch: int, gpus: int) -> float:
    passes, local = split_batch(global_batch, np.array([gpus]), model.local_batch_max)
    clock_mhz = model.throughput.clock_max_mhz
    return float(step_time(model.throughput, gpus, local, passes, clock_mhz, gpus > _NODE_GPUS)[0])


def _batch_distance(kin: Family, batches: Sequence[int]) -> float:
    usual = np.log(np.array(kin.global_batches, float))
    return float(np.median([np.min(np.abs(usual - math.log(batch))) for batch in batches]))
