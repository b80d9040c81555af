"""Simulate a log several times, without and with PowerFlow, each time with random values for what the log does not say.

A log does not say which models its jobs trained or what these models cost. A draw is one random choice of these facts.
Each draw has its own part of the log, models of the jobs, true costs of the models, and noise in PowerFlow's belief.
Without PowerFlow, each job runs as logged: for its logged time on its requested GPUs, at the maximum clock.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.catalogue import gpu_type
from powerflow.cost.costs_file import Costs
from powerflow.policy.prices import Prices
from powerflow.scheduler.rules.protection import Protection
from powerflow.simulate.belief import Belief, belief_named
from powerflow.simulate.experiment import Believed
from powerflow.simulate.frontier import natural_price
from powerflow.simulate.replay.queue import start_times
from powerflow.simulate.replay.windows import LogWindow
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload, alone_times


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run PowerFlow in a replay: its energy price, and whether it may change GPU counts.

    Attributes:
        price_share: Energy price in units of `natural_price`.
        rigid: True if jobs run only on their requested numbers of GPUs. Then PowerFlow chooses only order and clocks.
    """

    price_share: float
    rigid: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReplayOutcome:
    """The result of simulating one part of a log once, with or without PowerFlow.

    Attributes:
        energy_j: Joules of the cluster, with idle draw counted until the last submission.
        added_j: The part of ``energy_j`` that jobs add to the idle draw.
        jct_s: ``[J]`` completion time of each job, seconds. For a job that was submitted before this part of the log,
            the time counts from the start of the part.
        gpu_s: GPU-seconds of the jobs, as logged.
        energy_price: λ_E, seconds per joule.
    """

    energy_j: float
    added_j: float
    jct_s: FloatArray
    gpu_s: float
    energy_price: float

    @property
    def completion_s(self) -> float:
        """Sum of the completion times of all jobs, seconds."""
        return float(self.jct_s.sum())


@dataclass(frozen=True, slots=True, eq=False)
class DrawOutcome:
    """The results of one draw (a random choice of what a log does not say).

    Attributes:
        site: The result without PowerFlow.
        ours: The result of each way to run PowerFlow.
        added_w: ``[J]`` watts that each job adds to the idle draw of its GPUs without PowerFlow.
    """

    site: ReplayOutcome
    ours: Sequence[ReplayOutcome]
    added_w: FloatArray


@dataclass(frozen=True, slots=True)
class ProtectedJobs:
    """Jobs of a log that PowerFlow protects, as with ``priority: protected``.

    They run on the GPUs that they asked for at the maximum clock, from the next decision on, as far as there are enough
    GPUs for all of them (`powerflow.scheduler.rules.protection`).

    Attributes:
        positions: Their positions in the log.
        weight: Weight of their completion times; that of a normal job is 1.
    """

    positions: frozenset[int] = frozenset()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Draws:
    """Simulates draws (random choices of what a log does not say, such as models and their costs), in any process.

    Attributes:
        windows: The part of the log for each draw.
        cluster: The cluster, as `powerflow.cluster.spec.parse_cluster` reads it, with one GPU type.
        ways: The ways to run PowerFlow.
        discipline: Name of the rule by which the queue starts jobs without PowerFlow, one of
            `powerflow.simulate.replay.queue.DISCIPLINES`.
        believed: What PowerFlow knows of costs and sizes of jobs.
        seed: Seed of models, true costs and noise.
        costs: Measured costs of models that the log names.
        protected: Jobs that PowerFlow protects.
    """

    windows: Sequence[LogWindow]
    cluster: str
    ways: Sequence[Way]
    discipline: str
    believed: Believed
    seed: int
    costs: Costs | None = None
    protected: ProtectedJobs = ProtectedJobs()  # frozen

    def workload(self, draw: int) -> Workload:
        """Return the jobs and true costs of one draw (a random choice of what a log does not say), by its number."""
        window = self.windows[draw]
        built = build_workload(window.jobs, self.cluster, seed=self.workload_seed(draw), costs=self.costs)
        jobs = [
            dataclasses.replace(job, protected=True, max_slowdown=0.0, weight=self.protected.weight)
            if position in self.protected.positions
            else job
            for job, position in zip(built.jobs, window.positions.tolist(), strict=True)
        ]
        return dataclasses.replace(built, jobs=tuple(jobs))

    def workload_seed(self, draw: int) -> int:
        """Return the seed of one draw (a random choice of what a log does not say), by its number.

        Two different draws never have the same seed.
        """
        return self.seed * len(self.windows) + draw

    def __call__(self, draw: int) -> DrawOutcome:
        """Simulate one draw (a random choice of what a log does not say) without and with PowerFlow.

        PowerFlow is simulated once for each way to run it.
        """
        workload = self.workload(draw)
        seed = self.workload_seed(draw)
        known: Belief | None = None
        outcomes = []
        for way in self.ways:
            if known is None or self.believed.costs == "online":  # a belief that learns is used once
                known = belief_named(self.believed.costs, workload, sizes=self.believed.sizes, seed=seed)
            outcomes.append(self._simulated(workload, way, known, seed))
        return DrawOutcome(site(workload, self.discipline, _limits(self.windows[draw])), outcomes, added_w(workload))

    def _simulated(self, workload: Workload, way: Way, belief: Belief, seed: int) -> ReplayOutcome:
        price = way.price_share * natural_price(workload)
        # protected jobs are never slowed here, so that nothing needs to be checked between two events
        policy = Protection(Prices(), check_s=math.inf) if self.protected.positions else Prices()
        result = simulate(
            rigid(workload) if way.rigid else workload,
            policy,
            energy_price=price,
            belief=belief,
            world=self.believed.world,
            seed=seed,
        )
        until_s = workload.jobs[-1].submit_s
        energy_j = result.energy_over(until_s)
        return ReplayOutcome(
            energy_j,
            energy_j - idle_w(workload.cluster) * until_s,
            result.jobs.jct_s,
            _gpu_s(workload),
            price,
        )


def site(workload: Workload, discipline: str, limits_s: Mapping[str, float] = MappingProxyType({})) -> ReplayOutcome:
    """Simulate a site without PowerFlow: jobs run as logged, at the maximum clock, with all nodes awake.

    Args:
        workload: The jobs.
        discipline: Name of the rule by which the site's queue starts jobs.
        limits_s: Time limits of jobs that have one, by id, seconds.
    """
    run_s = alone_times(workload)
    submit_s = np.array([job.submit_s for job in workload.jobs])
    gpus = np.array([job.gpus for job in workload.jobs], np.int64)
    limit_s = np.array([limits_s.get(job.id, math.nan) for job in workload.jobs])
    start_s = start_times(submit_s, run_s, gpus, workload.cluster.gpus, discipline, limit_s)
    added_j = float(added_w(workload) @ run_s)
    return ReplayOutcome(
        added_j + idle_w(workload.cluster) * float(submit_s[-1]),
        added_j,
        start_s + run_s - submit_s,
        _gpu_s(workload),
        0.0,
    )


def added_w(workload: Workload) -> FloatArray:
    """Return the watts that each job adds to the idle draw of its GPUs at the maximum clock, ``[J]``."""
    (pool, axes), *_ = workload.axes.items()
    above_idle_w = {
        name: table.power_w[:, -1] - axes.gpu_counts * gpu_type(pool).idle_w
        for (name, _), table in workload.truth.items()
    }
    return np.array(
        [above_idle_w[job.cost_class][row] for job, row in zip(workload.jobs, _rows(workload), strict=True)]
    )


def _limits(window: LogWindow) -> dict[str, float]:
    return {job.id: job.limit_s for job in window.jobs.jobs if job.limit_s is not None}


def rigid(workload: Workload) -> Workload:
    """Return the workload with each job fixed to its requested number of GPUs.

    The policy `prices` uses only powers of two. Any other number is changed to the next lower power of two, or to the
    next higher power of two if the job cannot run on the lower one.
    """
    counts = next(iter(workload.axes.values())).gpu_counts
    jobs = [
        dataclasses.replace(job, gpus_min=int(counts[row]), gpus_max=int(counts[row]))
        for job, row in zip(workload.jobs, _rows(workload, counts & (counts - 1) == 0), strict=True)
    ]
    return dataclasses.replace(workload, jobs=tuple(jobs))


def idle_w(spec: ClusterSpec) -> float:
    """Return the watts of the cluster without jobs, with all nodes awake."""
    return sum(node.idle_w + node.gpus * gpu_type(node.gpu_type).idle_w for node in spec.nodes)


def _rows(workload: Workload, offered: BoolArray | None = None) -> IntArray:
    """Return the position of each job's requested GPU count in the cost tables, ``[J]``.

    ``offered`` (``[N]``) says which GPU counts may be used. If the requested count may not be used, or the job cannot
    run on it, the next lower count is taken, or else the next higher count.
    """
    ((_, axes),) = workload.axes.items()
    able = np.ones(len(axes.gpu_counts), bool) if offered is None else offered
    runs: dict[str, IntArray] = {
        name: np.flatnonzero(np.isfinite(table.step_time_s[:, -1]) & able)
        for (name, _), table in workload.truth.items()
    }
    rows = []
    for job in workload.jobs:
        possible = runs[job.cost_class]
        below = int(np.searchsorted(axes.gpu_counts[possible], job.gpus, side="right"))
        rows.append(int(possible[max(0, below - 1)]))
    return np.array(rows, np.int64)


def _gpu_s(workload: Workload) -> float:
    """Return the GPU-seconds of all jobs together, as logged."""
    return float(np.array([job.gpus for job in workload.jobs]) @ alone_times(workload))
