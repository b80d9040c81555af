"""One draw of what is not known, under the site's discipline and under PowerFlow: what jobs took, in time and energy.

A draw has its own stretch of the log, its own models (the log names none), its own truth of what these cost, and its
own noise in what PowerFlow is told. The site is given what its log says: every job runs for its logged time on the GPUs
it asked for, at the maximum clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.catalogue import gpu_type
from powerflow.cost.costs_file import Costs
from powerflow.policy.prices import Prices
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
    """One way to run PowerFlow on a draw.

    Attributes:
        price_share: Price of energy in units of `natural_price`.
        rigid: Jobs keep the GPUs that they asked for, or wait; only order and clocks are chosen.
    """

    price_share: float
    rigid: bool = False


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """What one draw came to.

    Attributes:
        energy_j: Joules of the cluster, idle draw counted until the last submission of the stretch.
        added_j: The part that jobs add to the idle cluster.
        completion_s: Completion times of all jobs, summed; of jobs that came before the stretch, from its begin.
        jobs: How many.
        gpu_s: GPU-seconds as logged.
        energy_price: λ_E, seconds per joule.
    """

    energy_j: float
    added_j: float
    completion_s: float
    jobs: int
    gpu_s: float
    energy_price: float


@dataclass(frozen=True, slots=True)
class DrawOutcome:
    """A draw under the site's discipline, and in every way to run PowerFlow."""

    site: ReplayOutcome
    ours: Sequence[ReplayOutcome]


@dataclass(frozen=True, slots=True)
class Draws:
    """Answers what comes of a draw, in whichever process.

    Attributes:
        windows: The stretch of each draw.
        cluster: As `powerflow.cluster.spec.parse_cluster` reads it; one GPU type.
        ways: To run PowerFlow.
        discipline: The site's (`powerflow.simulate.replay.queue.DISCIPLINES`).
        believed: What PowerFlow is told.
        seed: Of models, truths and noise.
        costs: What was measured of the models that the log names.
    """

    windows: Sequence[LogWindow]
    cluster: str
    ways: Sequence[Way]
    discipline: str
    believed: Believed
    seed: int
    costs: Costs | None = None

    def workload(self, draw: int) -> Workload:
        """Jobs, models and truth of a draw."""
        return build_workload(self.windows[draw].jobs, self.cluster, seed=self.workload_seed(draw), costs=self.costs)

    def workload_seed(self, draw: int) -> int:
        """No two draws of any two seeds share it."""
        return self.seed * len(self.windows) + draw

    def __call__(self, draw: int) -> DrawOutcome:
        """Replay a draw, and simulate it in every way."""
        workload = self.workload(draw)
        seed = self.workload_seed(draw)
        known: Belief | None = None
        outcomes = []
        for way in self.ways:
            if known is None or self.believed.costs == "online":  # what learns is made anew for every run
                known = belief_named(self.believed.costs, workload, sizes=self.believed.sizes, seed=seed)
            outcomes.append(self._simulated(workload, way, known, seed))
        return DrawOutcome(site(workload, self.discipline), outcomes)

    def _simulated(self, workload: Workload, way: Way, belief: Belief, seed: int) -> ReplayOutcome:
        price = way.price_share * natural_price(workload)
        result = simulate(
            rigid(workload) if way.rigid else workload,
            Prices(),
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
            float(result.jobs.jct_s.sum()),
            len(workload.jobs),
            _gpu_s(workload),
            price,
        )


def site(workload: Workload, discipline: str) -> ReplayOutcome:
    """What the site's discipline makes of a workload: jobs as logged, clocks at their maximum, no node ever asleep."""
    run_s = alone_times(workload)
    submit_s = np.array([job.submit_s for job in workload.jobs])
    gpus = np.array([job.gpus for job in workload.jobs], np.int64)
    start_s = start_times(submit_s, run_s, gpus, workload.cluster.gpus, discipline)
    (pool, axes), *_ = workload.axes.items()
    above_idle_w = {
        name: table.power_w[:, -1] - axes.gpu_counts * gpu_type(pool).idle_w
        for (name, _), table in workload.truth.items()
    }
    added_w = np.array(
        [above_idle_w[job.cost_class][row] for job, row in zip(workload.jobs, _rows(workload), strict=True)]
    )
    added_j = float(added_w @ run_s)
    return ReplayOutcome(
        added_j + idle_w(workload.cluster) * float(submit_s[-1]),
        added_j,
        float((start_s + run_s - submit_s).sum()),
        len(workload.jobs),
        _gpu_s(workload),
        0.0,
    )


def rigid(workload: Workload) -> Workload:
    """The same jobs, but each may run only on the GPUs it asked for.

    `prices` hands out powers of two: who asked for another count gets the next fewer, or more where it cannot run on so
    few.
    """
    counts = next(iter(workload.axes.values())).gpu_counts
    jobs = [
        dataclasses.replace(job, gpus_min=int(counts[row]), gpus_max=int(counts[row]))
        for job, row in zip(workload.jobs, _rows(workload, counts & (counts - 1) == 0), strict=True)
    ]
    return dataclasses.replace(workload, jobs=tuple(jobs))


def idle_w(spec: ClusterSpec) -> float:
    """Watts of the cluster while no job runs and no node sleeps."""
    return sum(node.idle_w + node.gpus * gpu_type(node.gpu_type).idle_w for node in spec.nodes)


def _rows(workload: Workload, offered: BoolArray | None = None) -> IntArray:
    """Where each job's request stands in the tables, ``[J]``.

    Where it cannot run on as many, or so many are not ``offered`` (``[N]``): the next fewer, or else the next more.
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
    """GPU-seconds that the jobs hold as logged."""
    return float(np.array([job.gpus for job in workload.jobs]) @ alone_times(workload))
