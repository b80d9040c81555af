"""Simulate the demo's jobs again: once as they ran, and once under FIFO at maximum clock.

The simulations use the costs that the live run **recorded**: measured points where they exist, and a fit elsewhere. The
first simulation shows how well simulator and live cluster agree. The second shows the savings. Both are labelled
simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job
from powerflow.live.jobs.active_job import scheduler_job
from powerflow.live.jobs.cost_learning import CostLearning, class_of
from powerflow.policy.protocol import Policy
from powerflow.policy.registry import load
from powerflow.scheduler.events import CostLearned
from powerflow.scheduler.plan import Change
from powerflow.scheduler.rules.compose import with_rules
from powerflow.simulate.belief import Oracle
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from powerflow.store.models import StoredJob


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """Result of one run.

    Attributes:
        name: Name of the run.
        jct_s: Mean completion time, seconds.
        energy_j: Joules of all GPUs, including idle ones.
        jobs_j: Joules of the jobs.
    """

    name: str
    jct_s: float
    energy_j: float
    jobs_j: float


@dataclass(frozen=True, slots=True)
class Live:
    """Metered energy of a live run: joules of all GPUs, joules of the jobs, and seconds."""

    metered_j: float
    jobs_j: float
    span_s: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """Everything that the simulation of a live run needs.

    Attributes:
        jobs: All jobs, completed.
        cluster, axes: The cluster, and per GPU type the counts and clocks to choose from.
        tables: Recorded costs by class and GPU type.
        energy_price, interval_s, policy: Settings of the scheduler.
        pause_s: Mean pause of a rescale; the assumed pause if there was none.
        start_s: Mean time from a job's first GPUs to its first step.
        explore_steps: Steps at each clock that is tried; 0 if clocks are not explored.
    """

    jobs: Sequence[StoredJob]
    cluster: ClusterSpec
    axes: Mapping[str, Axes]
    tables: Mapping[tuple[str, str], CostTable]
    energy_price: float
    interval_s: float
    policy: str
    pause_s: float
    start_s: float
    explore_steps: int


class AsLive(Oracle):
    """Believed costs that are learned as on the live cluster: from prior costs, by trying clocks and measuring.

    A trial of clocks is simulated as a pause: the extra time that its steps take, compared with the chosen clock. After
    the pause, the costs at all clocks are known, from the recorded costs.
    """

    name = "as live"

    def __init__(self, jobs: Sequence[StoredJob], workload: Workload, explore_steps: int) -> None:
        super().__init__(workload)
        self._truth, self._axes = workload.truth, workload.axes
        self._learning = CostLearning(workload.axes)
        self._steps = explore_steps
        self._start = [news for job in jobs for news in self._learning.expect(class_of(job.spec, job.user))]

    def start(self) -> Sequence[CostLearned]:
        """Return the costs that are believed before any measurement."""
        return self._start

    def exploration_s(self, job: Job, change: Change) -> float:
        """Return the extra time of the steps at clocks that are not measured yet."""
        clocks = self._to_try(job, change)
        decided_s = self._point(job, change, change.clock_mhz).step_time_s
        return sum(
            max(0.0, self._steps * (self._point(job, change, clock).step_time_s - decided_s)) for clock in clocks
        )

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """Take the recorded costs of a job's new configuration as measured, and return the cost tables that change.

        If the job has not run in it yet (``ran_s`` is 0), the clocks that a live job would try are measured too.
        """
        tried = self._to_try(job, change) if ran_s == 0.0 else ()
        clocks = dict.fromkeys((change.clock_mhz, *tried))
        return self._learning.observe(job.cost_class, [self._point(job, change, clock) for clock in clocks])

    def _to_try(self, job: Job, change: Change) -> Sequence[float]:
        if not self._steps:
            return ()
        top_mhz = float(self._axes[change.pool].clocks_mhz[-1])
        saves = change.clock_mhz < top_mhz or math.isfinite(job.max_slowdown)
        return self._learning.learner.clocks_to_try(
            job.cost_class,
            change.pool,
            change.gpus,
            self._steps,
            packed=change.packed,
            most_slowdown=job.max_slowdown,
            remaining=job.iterations if saves else 0.0,
        )

    def _point(self, job: Job, change: Change, clock_mhz: float) -> Observation:
        """Return the recorded costs of a job at a clock, as a measurement."""
        axes, table = self._axes[change.pool], self._truth[job.cost_class, change.pool]
        row = int(np.searchsorted(axes.gpu_counts, change.gpus))
        clock = int(np.abs(axes.clocks_mhz - clock_mhz).argmin())
        fewest = -(-change.gpus // axes.gpus_per_node)
        times = table.step_time_s if change.packed else table.spread_step_time_s
        return Observation(
            model=job.cost_class,
            gpu_type=change.pool,
            gpus=change.gpus,
            local_batch=int(table.local_batch[row]),
            step_time_s=float(times[row, clock]),
            nodes=fewest if change.packed else fewest + 1,
            accumulation=int(table.accumulation[row]),
            clock_mhz=float(axes.clocks_mhz[clock]),
            power_w=float(table.power_w[row, clock]),
        )


def workload(recorded: Recorded) -> Workload:
    """Return the live run as a workload; times count from the first submission."""
    first_s = min(job.submitted_s for job in recorded.jobs)
    jobs = [
        scheduler_job(job.id, job.spec, class_of(job.spec, job.user), job.submitted_s - first_s, job.steps)
        for job in recorded.jobs
    ]
    facts = {"Costs": "recorded while the jobs ran (measured points, a fit elsewhere)"}
    return Workload("the same jobs, simulated", jobs, recorded.cluster, recorded.axes, recorded.tables, facts)


def rehearse(recorded: Recorded, policy: Policy, energy_price: float, *, learn: bool) -> SimulationResult:
    """Simulate the recorded jobs, with a scheduler that learns as the live one did, or one that knows all costs."""
    jobs = workload(recorded)
    world = World(pause_s=recorded.pause_s, interval_s=recorded.interval_s, start_s=recorded.start_s)
    belief = AsLive(recorded.jobs, jobs, recorded.explore_steps) if learn else Oracle(jobs)
    return simulate(jobs, policy, energy_price=energy_price, belief=belief, world=world)


def side_by_side(recorded: Recorded, live: Live, idle_w: float) -> list[RunOutcome]:
    """Return three results: the live run, the same run simulated, and FIFO at maximum clock simulated.

    Energy counts from the first submission to the end of the longest run. A cluster whose run ends earlier draws
    ``idle_w`` watts until then.
    """
    ruled = with_rules(load(recorded.policy), interval_s=recorded.interval_s)
    same = rehearse(recorded, ruled, recorded.energy_price, learn=True)
    fifo = rehearse(recorded, load("fifo"), 0.0, learn=False)
    horizon_s = max(live.span_s, same.end_s, fifo.end_s)
    ended = [job.ended_s or job.submitted_s for job in recorded.jobs]
    jct_s = sum(end - job.submitted_s for end, job in zip(ended, recorded.jobs, strict=True)) / len(ended)
    return [
        RunOutcome("live", jct_s, live.metered_j + idle_w * (horizon_s - live.span_s), live.jobs_j),
        _outcome("the same, simulated", same, horizon_s),
        _outcome("FIFO at maximum clock, simulated", fifo, horizon_s),
    ]


def _outcome(name: str, result: SimulationResult, horizon_s: float) -> RunOutcome:
    jct_s, jobs_j = float(result.jobs.jct_s.mean()), float(result.jobs.energy_j.sum())
    return RunOutcome(name, jct_s, result.energy_over(horizon_s), jobs_j)
