"""Beliefs: what the scheduler knows of costs and job sizes, which may differ from the truth.

There are three beliefs about costs. **oracle** knows the true costs. **fitted** knows a model fitted to a few noisy
measurements of each class. **online** starts from the catalogue's priors and learns while jobs run, which costs time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.fit import fit
from powerflow.cost.learn import Learner
from powerflow.cost.observation import Observation
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.scheduler.events import CostLearned
from powerflow.scheduler.plan import Change
from powerflow.simulate.workload.workload import Workload, prior_of

NOISE = 0.03  # log-sd of one measured step time or power
TRIAL_S = 20.0  # seconds at each clock when a class first runs on a GPU count: a few tens of steps


class Belief(Protocol):
    """What the scheduler knows, and what it learns.

    Attributes:
        name: Its name on the command line.
        sizes_known: Whether the sizes of jobs are known.
    """

    name: str
    sizes_known: bool

    def start(self) -> Sequence[CostLearned]:
        """Return the believed costs before the first job."""
        ...

    def iterations(self, job: int) -> float | None:
        """Return the believed iterations of a job, by its position in the workload; None if unknown."""
        ...

    def exploration_s(self, job: Job, change: Change) -> float:
        """Return the seconds that a job needs to try the clocks of a configuration that is not known yet."""
        ...

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """Learn from a job that ran ``ran_s`` seconds in one configuration; return the beliefs that changed."""
        ...


class Sizes:
    """Believed sizes of jobs.

    Args:
        workload: The jobs.
        text: ``known``, ``unknown``, or ``mispredicted:SIGMA``: the true size times a lognormal factor of log-sd SIGMA.
        seed: Seed of the factors.

    Raises:
        InputError: The text is none of these.
    """

    def __init__(self, workload: Workload, text: str = "known", seed: int = 0) -> None:
        kind, _, sigma_text = text.partition(":")
        self.believed: FloatArray | None = np.array([job.iterations for job in workload.jobs])
        if kind == "unknown" and not sigma_text:
            self.believed = None
        elif kind == "mispredicted":
            sigma = _sigma(sigma_text)
            rng = np.random.default_rng([seed, 0x512E])
            self.believed = self.believed * np.exp(sigma * rng.standard_normal(len(workload.jobs)))
        elif text != "known":
            raise InputError(f"sizes {text!r} is unknown", where="--sizes", fix="known, unknown or mispredicted:0.5")

    def __getitem__(self, job: int) -> float | None:
        return None if self.believed is None else float(self.believed[job])


def _sigma(text: str) -> float:
    try:
        sigma = float(text or "0.5")
    except ValueError:
        sigma = math.nan
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise InputError(f"sigma {text!r} is not a number ≥ 0", where="--sizes", fix="mispredicted:0.5")
    return sigma


class Oracle:
    """Knows the true costs."""

    name = "oracle"

    def __init__(self, workload: Workload, sizes: Sizes | None = None) -> None:
        self._workload = workload
        self._sizes = sizes or Sizes(workload)
        self.sizes_known = self._sizes.believed is not None

    def start(self) -> Sequence[CostLearned]:
        """Return the true costs."""
        return [CostLearned(name, gpu_type, table) for (name, gpu_type), table in self._workload.truth.items()]

    def iterations(self, job: int) -> float | None:
        """Return the believed size of a job."""
        return self._sizes[job]

    def exploration_s(self, job: Job, change: Change) -> float:
        """Return 0: everything is known."""
        return 0.0

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """Learn nothing."""
        return ()


class Fitted(Oracle):
    """Knows a fit to noisy measurements of each class (1, 2, 4, 8 GPUs; lowest, middle and highest clock)."""

    name = "fitted"

    def __init__(self, workload: Workload, sizes: Sizes | None = None, *, noise: float = NOISE, seed: int = 0) -> None:
        super().__init__(workload, sizes)
        self._start = []
        for (name, gpu_type), truth in workload.truth.items():
            axes = workload.axes[gpu_type]
            batch = name.rpartition("/")[2]
            lab = Laboratory(workload, noise, np.random.default_rng([seed, 0xF17, *name.encode()]))
            points = [
                lab.measure(name, gpu_type, row, clock, packed=True)
                for row in np.flatnonzero(np.isin(axes.gpu_counts, [1, 2, 4, 8])).tolist()
                for clock in three_clocks(len(axes.clocks_mhz))
                if math.isfinite(truth.step_time_s[row, clock])
            ]
            model = fit(points, prior=prior_of(workload, name, gpu_type)).model
            self._start.append(CostLearned(name, gpu_type, tabulate(model, axes, int(batch), points)))

    def start(self) -> Sequence[CostLearned]:
        """Return the fitted costs."""
        return self._start


class Online(Oracle):
    """Starts from the catalogue's priors, and learns; the first run of a class on a GPU count tries three clocks."""

    name = "online"

    def __init__(self, workload: Workload, sizes: Sizes | None = None, *, noise: float = NOISE, seed: int = 0) -> None:
        super().__init__(workload, sizes)
        self._lab = Laboratory(workload, noise, np.random.default_rng([seed, 0x0411]))
        self._learner = Learner(workload.axes)
        self._tried: set[tuple[str, str, int, bool]] = set()
        for name, gpu_type in workload.truth:
            batch = int(name.rpartition("/")[2])
            self._learner.expect(name, gpu_type, prior_of(workload, name, gpu_type), batch)

    def start(self) -> Sequence[CostLearned]:
        """Return the priors."""
        return [
            CostLearned(name, gpu_type, self._learner.table(name, gpu_type)) for name, gpu_type in self._workload.truth
        ]

    def exploration_s(self, job: Job, change: Change) -> float:
        """Return the time to try three clocks, if the configuration is new."""
        return 0.0 if self._key(job, change) in self._tried else 3 * TRIAL_S

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """Measure the configuration, and return what the learner makes of it."""
        row = int(np.searchsorted(self._workload.axes[change.pool].gpu_counts, change.gpus))
        clocks = {change.clock}
        if self._key(job, change) not in self._tried:
            self._tried.add(self._key(job, change))
            clocks |= set(three_clocks(len(self._workload.axes[change.pool].clocks_mhz)))
        elif ran_s < TRIAL_S:
            return ()
        seen = [
            self._lab.measure(job.cost_class, change.pool, row, clock, packed=change.packed) for clock in sorted(clocks)
        ]
        if not self._learner.observe(job.cost_class, change.pool, seen):
            return ()
        return [CostLearned(job.cost_class, change.pool, self._learner.table(job.cost_class, change.pool))]

    @staticmethod
    def _key(job: Job, change: Change) -> tuple[str, str, int, bool]:
        return job.cost_class, change.pool, change.gpus, change.packed


class Laboratory:
    """Measures the true costs, with noise."""

    def __init__(self, workload: Workload, noise: float, rng: np.random.Generator) -> None:
        self._workload = workload
        self._noise = noise
        self._rng = rng

    def measure(self, cost_class: str, gpu_type: str, row: int, clock: int, *, packed: bool) -> Observation:
        """Return one measurement of step time and power of a class in one configuration."""
        axes = self._workload.axes[gpu_type]
        table = self._workload.truth[cost_class, gpu_type]
        step_s = (table.step_time_s if packed else table.spread_step_time_s)[row, clock]
        off = np.exp(self._noise * self._rng.standard_normal(2))
        gpus = int(axes.gpu_counts[row])
        nodes = -(-gpus // axes.gpus_per_node)
        return Observation(
            model=cost_class,
            gpu_type=gpu_type,
            gpus=gpus,
            local_batch=int(table.local_batch[row]),
            step_time_s=float(step_s * off[0]),
            nodes=nodes if packed else nodes + 1,
            accumulation=int(table.accumulation[row]),
            clock_mhz=float(axes.clocks_mhz[clock]),
            power_w=float(table.power_w[row, clock] * off[1]),
        )


def three_clocks(clocks: int) -> list[int]:
    """Return lowest, middle and highest of some clocks: enough to fit the power curve (`docs/models.md`)."""
    return sorted({0, clocks // 2, clocks - 1})


def belief_named(name: str, workload: Workload, *, sizes: str = "known", seed: int = 0) -> Belief:
    """Return the belief with a name.

    Raises:
        InputError: The name is not oracle, fitted or online.
    """
    believed = Sizes(workload, sizes, seed)
    match name:
        case "oracle":
            return Oracle(workload, believed)
        case "fitted":
            return Fitted(workload, believed, seed=seed)
        case "online":
            return Online(workload, believed, seed=seed)
    raise InputError(f"belief {name!r} is unknown", where="--belief", fix="oracle, fitted or online")
