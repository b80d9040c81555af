"""Protection, ageing, fairness and rescaling without regret: what the rules hold, in simulation.

    python -m benchmarks.protect [--seeds 10000]

Everything is simulated on small clusters drawn at random; nothing is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.table import Axes, CostTable, FloatArray
from powerflow.job import Job
from powerflow.policy.prices import Prices
from powerflow.scheduler.events import CostLearned
from powerflow.scheduler.protect import Protected
from powerflow.simulate.belief import Oracle, Sizes
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import World, simulate
from powerflow.simulate.workload import Workload

MODEL_ERROR = 0.2  # every believed step time and power is off by up to so much, and so is every size
COUNTS = np.array([1, 2, 4, 8])
CLOCKS_MHZ = np.array([600.0, 900.0, 1200.0, 1410.0])
DEAR_J = 1e-2  # s/J: a job of 300 W is worth three times its time in energy, so that clocks sink


def random_table(rng: np.random.Generator) -> CostTable:
    """A class that scales and slows down somehow: with more GPUs some get slower again."""
    scaling = COUNTS ** -rng.uniform(0.3, 1.0) * (1 + rng.uniform(0, 0.1) * (COUNTS - 1))
    clock_share = rng.uniform(0.3, 1.0)
    slowing = 1 - clock_share + clock_share * CLOCKS_MHZ[-1] / CLOCKS_MHZ
    step_s = rng.uniform(0.2, 2.0) * np.outer(scaling, slowing)
    watts = np.outer(COUNTS, 60 + rng.uniform(100, 300) * (CLOCKS_MHZ / CLOCKS_MHZ[-1]) ** 2.5)
    ones = np.ones(len(COUNTS), np.int64)
    return CostTable(step_s, step_s, watts, ones, ones)


@dataclass(frozen=True)
class Case:
    """A tiny cluster's hour: jobs, and which of them are protected.

    Attributes:
        workload: Ten jobs on eight GPUs.
        slowdown: Declared slowdown by number of the protected job; together they never ask for more than 8 GPUs.
    """

    workload: Workload
    slowdown: dict[int, float]


def random_case(seed: int, jobs: int = 10) -> Case:
    """A case by seed."""
    rng = np.random.default_rng([seed, 0x9207])
    tables = [random_table(rng) for _ in range(4)]
    submit_s = np.sort(rng.uniform(0, 1800, jobs))
    free, slowdown, made = 8, {}, []
    for number in range(jobs):
        kind, gpus = int(rng.integers(4)), int(rng.choice([1, 2, 4]))
        alone_s = float(rng.uniform(60, 3600))
        if gpus <= free and rng.random() < 0.4:
            free -= gpus
            slowdown[number] = float(rng.choice([0.0, 0.05, 0.1, 0.3]))
        work = alone_s / tables[kind].step_time_s[int(np.log2(gpus)), -1]
        weight = float(rng.choice([0.5, 1.0, 4.0]))
        made.append(Job(f"job-{number}", float(submit_s[number]), f"c{kind}", work, gpus, 1, 8, weight))
    axes = {"A100": Axes("A100", 8, COUNTS, CLOCKS_MHZ)}
    truth = {(f"c{kind}", "A100"): table for kind, table in enumerate(tables)}
    return Case(Workload(f"case {seed}", tuple(made), parse_cluster("1x8:A100"), axes, truth, {}), slowdown)


class Wrong(Oracle):
    """Believes every step time, power and size with an error of its own, uniform within ± `MODEL_ERROR`."""

    def __init__(self, workload: Workload, seed: int) -> None:
        super().__init__(workload, Sizes(workload))
        rng = np.random.default_rng([seed, 0x3707])

        def off(values: FloatArray) -> FloatArray:
            return values * rng.uniform(1 - MODEL_ERROR, 1 + MODEL_ERROR, values.shape)

        self._tables = [
            CostLearned(
                name,
                gpu_type,
                CostTable(
                    off(table.step_time_s),
                    off(table.spread_step_time_s),
                    off(table.power_w),
                    table.local_batch,
                    table.accumulation,
                ),
            )
            for (name, gpu_type), table in workload.truth.items()
        ]
        self._sizes_off = off(np.array([job.iterations for job in workload.jobs]))

    def start(self) -> Sequence[CostLearned]:
        """See `Belief`."""
        return self._tables

    def iterations(self, job: int) -> float:
        """See `Belief`."""
        return float(self._sizes_off[job])


@dataclass(frozen=True)
class Kept:
    """How the promises of one case were kept; of its protected jobs, ``[P]`` each.

    Attributes:
        delay_s: From submission to the first GPUs.
        most_delay_s: The most it may be.
        slowdown: JCT over the time alone as submitted, minus 1.
        most_slowdown: The most that may be: as declared, or the start delay alone where that is more.
        declared: As declared.
        energy_j: Joules.
    """

    delay_s: FloatArray
    most_delay_s: FloatArray
    slowdown: FloatArray
    most_slowdown: FloatArray
    declared: FloatArray
    energy_j: FloatArray


def keep(case: Case, seed: int, *, protected: bool = True, energy_price: float = DEAR_J) -> Kept:
    """Simulate a case with wrong beliefs."""
    policy = Protected(Prices(), case.slowdown) if protected else Prices()
    belief = Wrong(case.workload, seed)
    jobs = simulate(case.workload, policy, energy_price=energy_price, belief=belief, world=World()).jobs
    rows = np.array(sorted(case.slowdown), np.int64)
    declared = np.array([case.slowdown[row] for row in rows.tolist()])
    alone_s, delay_s = jobs.alone_s[rows], (jobs.start_s - jobs.submit_s)[rows]
    return Kept(
        delay_s,
        np.maximum(60.0, 0.01 * alone_s),
        jobs.jct_s[rows] / alone_s - 1.0,
        np.maximum(declared, delay_s / alone_s),
        declared,
        jobs.energy_j[rows],
    )


def adversary(every_s: float, burst: int, short_s: float, long_jobs: int, *, hours: float = 24.0) -> Workload:
    """Elastic jobs that run all day, and bursts of short ones timed to make them change back and forth.

    Args:
        every_s: Seconds between bursts.
        burst: Jobs in one.
        short_s: What one of them takes on one GPU.
        long_jobs: How many run all day; together they fill the eight GPUs nine tenths of the time.
        hours: How long it goes on.
    """
    step_s = np.outer(COUNTS**-0.9, 0.3 + 0.7 * CLOCKS_MHZ[-1] / CLOCKS_MHZ)
    watts = np.outer(COUNTS, 60 + 240 * (CLOCKS_MHZ / CLOCKS_MHZ[-1]) ** 2.5)
    ones = np.ones(len(COUNTS), np.int64)
    bursts = int(hours * 3600 / every_s)
    long_s = 0.9 * 8 * hours * 3600 / long_jobs
    submitted = [(0.0, long_s, f"long-{number}") for number in range(long_jobs)]
    submitted += [
        (60.0 + number * every_s, short_s, f"short-{number}-{k}") for number in range(bursts) for k in range(burst)
    ]
    jobs = tuple(Job(name, at_s, "any", work, 1, 1, 8) for at_s, work, name in submitted)
    axes = {"A100": Axes("A100", 8, COUNTS, CLOCKS_MHZ)}
    truth = {("any", "A100"): CostTable(step_s, step_s, watts, ones, ones)}
    return Workload("adversary", jobs, parse_cluster("1x8:A100"), axes, truth, {})


def share_lost(result: SimulationResult, pause_s: float) -> float:
    """Share of all GPU-seconds that went by in pauses: the first ``pause_s`` of every stretch on other GPUs."""
    rows = result.segments
    order = np.lexsort((rows.start_s, rows.job))
    job, gpus, start_s, end_s = rows.job[order], rows.gpus[order], rows.start_s[order], rows.end_s[order]
    changed = (job[1:] == job[:-1]) & ((gpus[1:] != gpus[:-1]) | (start_s[1:] > end_s[:-1]))
    lost_gpu_s = np.minimum(pause_s, end_s - start_s)[1:] * gpus[1:]
    return float(lost_gpu_s[changed].sum() / ((end_s - start_s) * gpus).sum())
