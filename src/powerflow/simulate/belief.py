"""Define beliefs: what the scheduler knows of the costs and sizes of jobs. A belief may differ from the truth.

The size of a job is its number of iterations. Three beliefs about costs exist. With **oracle** the scheduler knows the
true costs. With **fitted** it knows a model that was fitted to a few noisy measurements of each class of jobs. With
**online** it begins with the built-in estimates (priors) of the model catalogue and learns from running jobs; trying
clocks takes time from these jobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.clock_choice import three_clocks
from powerflow.cost.fit import fit
from powerflow.cost.goodput import tabulate_best
from powerflow.cost.learn import Learner
from powerflow.cost.observation import Observation
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.scheduler.events import CostLearned
from powerflow.scheduler.plan import Change
from powerflow.simulate.workload.workload import Workload, prior_of

NOISE = 0.03  # standard deviation of the logarithm of one measured step time or power
TRIAL_S = 20.0  # seconds at each clock when a class first runs on a GPU count: a few tens of steps


class Belief(Protocol):
    """What the scheduler knows of the costs and sizes of jobs, and what it learns while jobs run.

    Attributes:
        name: Name of the belief on the command line: oracle, fitted or online.
        sizes_known: True if the scheduler has a number of iterations for each job (it may be wrong).
    """

    name: str
    sizes_known: bool

    def start(self) -> Sequence[CostLearned]:
        """Return the costs that the scheduler believes before the first job runs."""
        ...

    def iterations(self, job: int) -> float | None:
        """Return the number of iterations that the scheduler expects of a job; None if it has no number.

        ``job`` is the position of the job in the workload.
        """
        ...

    def exploration_s(self, job: Job, change: Change) -> float:
        """Return the seconds that a job needs to try clocks before it runs on; 0 if it tries none."""
        ...

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """Learn from a job that ran ``ran_s`` seconds in one configuration; return the cost tables that changed.

        With ``ran_s`` = 0 the job has just tried the clocks for which it needed `exploration_s`.
        """
        ...


class Sizes:
    """The number of iterations that the scheduler believes each job to have.

    Args:
        workload: The jobs.
        text: ``known``, ``unknown``, or ``mispredicted:SIGMA``. In the last case each true number is multiplied by a
            random lognormal factor; SIGMA is the standard deviation of its logarithm.
        seed: Seed of the random factors.

    Raises:
        InputError: ``text`` has none of these three forms.
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
    """A belief that equals the truth: the scheduler knows the true costs."""

    name = "oracle"

    def __init__(self, workload: Workload, sizes: Sizes | None = None) -> None:
        self._workload = workload
        self._sizes = sizes or Sizes(workload)
        self.sizes_known = self._sizes.believed is not None

    def start(self) -> Sequence[CostLearned]:
        """Return the true costs of all classes of jobs."""
        return [CostLearned(name, gpu_type, table) for (name, gpu_type), table in self._workload.truth.items()]

    def iterations(self, job: int) -> float | None:
        """Return the number of iterations that the scheduler expects of a job; None if it has no number."""
        return self._sizes[job]

    def exploration_s(self, job: Job, change: Change) -> float:
        """Return 0: all costs are known, so that no job spends time on trying clocks."""
        return 0.0

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """Return no new costs: all costs are known from the start."""
        return ()


class Fitted(Oracle):
    """A belief from measurements: a model fitted to noisy measurements of each class of jobs.

    Each class is measured on 1, 2, 4 and 8 GPUs, at the lowest, a middle and the highest clock.
    """

    name = "fitted"

    def __init__(self, workload: Workload, sizes: Sizes | None = None, *, noise: float = NOISE, seed: int = 0) -> None:
        super().__init__(workload, sizes)
        self._start = []
        for (name, gpu_type), truth in workload.truth.items():
            axes = workload.axes[gpu_type]
            kind = workload.kinds[name]
            lab = Laboratory(workload, noise, np.random.default_rng([seed, 0xF17, *name.encode()]))
            points = [
                lab.measure(name, gpu_type, row, clock, packed=True)
                for row in np.flatnonzero(np.isin(axes.gpu_counts, [1, 2, 4, 8])).tolist()
                for clock in three_clocks(len(axes.clocks_mhz))
                if math.isfinite(truth.step_time_s[row, clock])
            ]
            model = fit(points, prior=prior_of(workload, name, gpu_type)).model
            table = tabulate_best(model, axes, kind.global_batch, kind.allowed, points)
            self._start.append(CostLearned(name, gpu_type, table))

    def start(self) -> Sequence[CostLearned]:
        """Return the fitted costs of all classes of jobs."""
        return self._start


class Online(Oracle):
    """A belief that learns: it begins with the built-in estimates of the model catalogue, and learns from running jobs.

    When a class of jobs first runs on a GPU count, the job tries three clocks, and then others where this pays
    (`powerflow.cost.clock_choice`).
    """

    name = "online"

    def __init__(self, workload: Workload, sizes: Sizes | None = None, *, noise: float = NOISE, seed: int = 0) -> None:
        super().__init__(workload, sizes)
        self._lab = Laboratory(workload, noise, np.random.default_rng([seed, 0x0411]))
        self._learner = Learner(workload.axes)
        self._tried: set[tuple[str, str, int, bool, float]] = set()  # class, pool, GPUs, packed, clock
        self._position = {job.id: position for position, job in enumerate(workload.jobs)}
        for name, gpu_type in workload.truth:
            kind, prior = workload.kinds[name], prior_of(workload, name, gpu_type)
            self._learner.expect(name, gpu_type, prior, kind.global_batch, kind.allowed)

    def start(self) -> Sequence[CostLearned]:
        """Return the built-in estimates of the costs of all classes of jobs, from the model catalogue."""
        return [
            CostLearned(name, gpu_type, self._learner.table(name, gpu_type)) for name, gpu_type in self._workload.truth
        ]

    def exploration_s(self, job: Job, change: Change) -> float:
        """Return the seconds that a job needs to try the clocks at which its class should be measured next.

        A clock that was tried before costs none: the job works at it.
        """
        return TRIAL_S * len(self._keys(job, change, self._to_try(job, change)) - self._tried)

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """Measure the configuration in which a job ran, and return the cost table if it changed."""
        axes = self._workload.axes[change.pool]
        row = int(np.searchsorted(axes.gpu_counts, change.gpus))
        clocks = [change.clock]
        if ran_s == 0.0:
            to_try = self._to_try(job, change)
            clocks = sorted({*clocks, *np.searchsorted(axes.clocks_mhz, to_try).tolist()})
        elif ran_s < TRIAL_S:
            return ()
        news = self._measure(job, change, row, clocks)
        while ran_s == 0.0 and (to_try := self._to_try(job, change)):  # the same clocks once more, against the noise
            if self._keys(job, change, to_try) - self._tried:
                break
            news |= self._measure(job, change, row, np.searchsorted(axes.clocks_mhz, to_try).tolist())
        if not news:
            return ()
        return [CostLearned(job.cost_class, change.pool, self._learner.table(job.cost_class, change.pool))]

    def _measure(self, job: Job, change: Change, row: int, clocks: Sequence[int]) -> bool:
        """Measure a class at these clocks; return True if its cost table should be computed again."""
        seen = [self._lab.measure(job.cost_class, change.pool, row, clock, packed=change.packed) for clock in clocks]
        self._tried |= self._keys(job, change, [self._workload.axes[change.pool].clocks_mhz[k] for k in clocks])
        return self._learner.observe(job.cost_class, change.pool, seen)

    def _keys(self, job: Job, change: Change, clocks_mhz: Sequence[float]) -> set[tuple[str, str, int, bool, float]]:
        return {(job.cost_class, change.pool, change.gpus, change.packed, float(clock)) for clock in clocks_mhz}

    def _to_try(self, job: Job, change: Change) -> Sequence[float]:
        axes = self._workload.axes[change.pool]
        row = int(np.searchsorted(axes.gpu_counts, change.gpus))
        step_s = self._workload.truth[job.cost_class, change.pool].step_time_s[row, -1]
        saves = change.clock < len(axes.clocks_mhz) - 1 or math.isfinite(job.max_slowdown)
        iterations = self.iterations(self._position[job.id])
        return self._learner.clocks_to_try(
            job.cost_class,
            change.pool,
            change.gpus,
            TRIAL_S / step_s,
            packed=change.packed,
            most_slowdown=job.max_slowdown,
            remaining=0.0 if not saves else math.inf if iterations is None else iterations,
        )


class Laboratory:
    """Measures the true costs of jobs and adds random noise to the results."""

    def __init__(self, workload: Workload, noise: float, rng: np.random.Generator) -> None:
        self._workload = workload
        self._noise = noise
        self._rng = rng

    def measure(self, cost_class: str, gpu_type: str, row: int, clock: int, *, packed: bool) -> Observation:
        """Return one noisy measurement of the step time and power of a class of jobs in one configuration.

        Args:
            cost_class: Name of the class.
            gpu_type: The GPU type.
            row: Position of the GPU count in the cost table.
            clock: Position of the clock in the cost table.
            packed: True if the job is on as few nodes as possible.
        """
        axes = self._workload.axes[gpu_type]
        table = self._workload.truth[cost_class, gpu_type]
        times_s = table.step_time_s if packed else table.spread_step_time_s
        step_s = (times_s * np.reshape(table.progress, (-1, 1)))[row, clock]  # of a real step, at the batch in use
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


def belief_named(name: str, workload: Workload, *, sizes: str = "known", seed: int = 0) -> Belief:
    """Return the belief about costs with a name: oracle, fitted or online.

    ``sizes`` says what the scheduler knows of the jobs' iterations (see `Sizes`); ``seed`` is the seed of everything
    random.

    Raises:
        InputError: The name is not oracle, fitted or online, or ``sizes`` has none of its forms.
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
