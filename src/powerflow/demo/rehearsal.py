"""The same jobs once more, in the simulator: as they ran, and as FIFO at maximum clock would have run them.

What jobs cost there is what the live run **recorded**: measured points where there are any, the fit elsewhere. So the
first comparison says how far simulator and live cluster agree, the second what was saved; both are labelled simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job
from powerflow.live.entry import asked
from powerflow.live.learning import class_of
from powerflow.live.rows import StoredJob
from powerflow.policy.registry import load
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import World, simulate
from powerflow.simulate.workload import Workload


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        name: Of the run, for people.
        jct_s: Mean completion time.
        energy_j: Joules of all GPUs, idle ones too.
        jobs_j: Those of jobs alone.
    """

    name: str
    jct_s: float
    energy_j: float
    jobs_j: float


@dataclass(frozen=True, slots=True)
class Live:
    """What the meters said of a live run: joules of all GPUs, of jobs, and over how many seconds."""

    metered_j: float
    jobs_j: float
    span_s: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a live run left behind that a simulation of it needs.

    Attributes:
        jobs: All of them, completed.
        cluster, axes: What they ran on.
        tables: Recorded costs by class and GPU type.
        energy_price, interval_s, policy: How it was decided.
        pause_s: Median measured pause of a rescale.
        start_s: Median time from a job's first GPUs to its first step.
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


def workload(recorded: Recorded) -> Workload:
    """The live run as a workload; times count from the first submission.

    What a job needs to get going (its process starts, imports, builds its model) is work too: it is added to its steps
    as so many of its own steps on the fewest GPUs.
    """
    first_s = min(job.submitted_s for job in recorded.jobs)
    jobs = []
    for stored in recorded.jobs:
        kind = class_of(stored.spec, stored.user)
        gpus = stored.spec.gpus
        table = recorded.tables[kind.name, next(iter(recorded.axes))]
        row = int((recorded.axes[next(iter(recorded.axes))].gpu_counts >= gpus.least).argmax())
        jobs.append(
            Job(
                id=stored.id,
                submit_s=stored.submitted_s - first_s,
                cost_class=kind.name,
                iterations=stored.steps + recorded.start_s / float(table.step_time_s[row, -1]),
                gpus=asked(gpus.least, gpus.most),
                gpus_min=gpus.least,
                gpus_max=gpus.most,
                project=stored.spec.project,
            )
        )
    facts = {"Costs": "recorded while the jobs ran (measured points, a fit elsewhere)"}
    return Workload("the same jobs, simulated", jobs, recorded.cluster, recorded.axes, recorded.tables, facts)


def rehearse(recorded: Recorded, policy: str, energy_price: float) -> SimulationResult:
    """Simulate the recorded jobs under a policy."""
    world = World(pause_s=recorded.pause_s, interval_s=recorded.interval_s)
    return simulate(workload(recorded), load(policy), energy_price=energy_price, world=world)


def side_by_side(recorded: Recorded, live: Live, idle_w: float) -> list[Outcome]:
    """The live run, the same simulated, and FIFO at maximum clock simulated.

    Energy counts from the first submission to the end of the longest of the three: a cluster that is done earlier idles
    until then, at ``idle_w``.
    """
    same = rehearse(recorded, recorded.policy, recorded.energy_price)
    fifo = rehearse(recorded, "fifo", 0.0)
    horizon_s = max(live.span_s, same.end_s, fifo.end_s)
    ended = [job.ended_s or job.submitted_s for job in recorded.jobs]
    jct_s = sum(end - job.submitted_s for end, job in zip(ended, recorded.jobs, strict=True)) / len(ended)
    return [
        Outcome("live", jct_s, live.metered_j + idle_w * (horizon_s - live.span_s), live.jobs_j),
        _outcome("the same, simulated", same, horizon_s),
        _outcome("FIFO at maximum clock, simulated", fifo, horizon_s),
    ]


def _outcome(name: str, result: SimulationResult, horizon_s: float) -> Outcome:
    jct_s, jobs_j = float(result.jobs.jct_s.mean()), float(result.jobs.energy_j.sum())
    return Outcome(name, jct_s, result.energy_over(horizon_s), jobs_j)
