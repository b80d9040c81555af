"""What the scheduler is told: beliefs about costs, and about sizes, that may differ from the truth.

Three beliefs about costs: the **oracle** knows the truth; **fitted** knows a few noisy profile points of every class
and what a fit makes of them; **online** starts from the catalogue's priors and learns while jobs run, paying with time.
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
TRIAL_S = 20.0  # seconds spent at each clock when a class first runs on a count: a few tens of steps


class Belief(Protocol):
    """What the scheduler is told, and what it learns.

    Attributes:
        name: For people.
        sizes_known: Whether `iterations` says anything.
    """

    name: str
    sizes_known: bool

    def start(self) -> Sequence[CostLearned]:
        """What is believed before the first job."""
        ...

    def iterations(self, job: int) -> float | None:
        """Believed iterations of the workload's job number ``job``; None: unknown."""
        ...

    def exploration_s(self, job: Job, change: Change) -> float:
        """Seconds the job stands still to try the clocks of a configuration that nobody knows yet."""
        ...

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """A job has run for so long in one configuration: what is believed differently now."""
        ...


class Sizes:
    """What is believed of job sizes.

    Args:
        workload: Whose jobs.
        text: ``known``, ``unknown``, or ``mispredicted:SIGMA``: the truth times a lognormal factor of log-sd SIGMA.
        seed: Of the factors.

    Raises:
        InputError: If the text is none of these.
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
    """Knows the truth about costs."""

    name = "oracle"

    def __init__(self, workload: Workload, sizes: Sizes | None = None) -> None:
        self._workload = workload
        self._sizes = sizes or Sizes(workload)
        self.sizes_known = self._sizes.believed is not None

    def start(self) -> Sequence[CostLearned]:
        """See `Belief`."""
        return [CostLearned(name, gpu_type, table) for (name, gpu_type), table in self._workload.truth.items()]

    def iterations(self, job: int) -> float | None:
        """See `Belief`."""
        return self._sizes[job]

    def exploration_s(self, job: Job, change: Change) -> float:
        """See `Belief`."""
        return 0.0

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """See `Belief`."""
        return ()


class Fitted(Oracle):
    """Knows noisy profile points of every class (1, 2, 4 and 8 GPUs; lowest, middle and highest clock), and a fit."""

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
        """See `Belief`."""
        return self._start


class Online(Oracle):
    """Starts from the catalogue's priors; a class's first run on a count tries three clocks and is learned from."""

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
        """See `Belief`."""
        return [
            CostLearned(name, gpu_type, self._learner.table(name, gpu_type)) for name, gpu_type in self._workload.truth
        ]

    def exploration_s(self, job: Job, change: Change) -> float:
        """See `Belief`."""
        return 0.0 if self._key(job, change) in self._tried else 3 * TRIAL_S

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """See `Belief`."""
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
    """Measures the truth with noise."""

    def __init__(self, workload: Workload, noise: float, rng: np.random.Generator) -> None:
        self._workload = workload
        self._noise = noise
        self._rng = rng

    def measure(self, cost_class: str, gpu_type: str, row: int, clock: int, *, packed: bool) -> Observation:
        """One measurement of a class on one configuration: step time and power, each with its own noise."""
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
    """Lowest, middle and highest of so many clocks: what κ and the power curve need (design §4)."""
    return sorted({0, clocks // 2, clocks - 1})


def belief_named(name: str, workload: Workload, *, sizes: str = "known", seed: int = 0) -> Belief:
    """The belief that a command line names.

    Raises:
        InputError: If the name is not oracle, fitted or online.
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
