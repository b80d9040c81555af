"""Protection, ageing, fairness and rescaling without regret: what the rules hold, in simulation.

    python -m benchmarks.protect [--seeds 10000]

Everything is simulated on small clusters drawn at random; nothing is read.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.fairness import fairness
from powerflow.arrays import FloatArray
from powerflow.cluster.spec import parse_cluster
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job
from powerflow.policy.overlay import FixedClock
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import Policy
from powerflow.scheduler.events import CostLearned
from powerflow.scheduler.plan import Change
from powerflow.scheduler.rules.ageing import Ageing
from powerflow.scheduler.rules.fair_share import FairShare
from powerflow.scheduler.rules.hysteresis import Hysteresis
from powerflow.scheduler.rules.protection import Protection
from powerflow.simulate.belief import Oracle, Sizes
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import Simulation, simulate
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World

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


def slow() -> Policy:
    """What tries promises hardest: all jobs at the lowest clock, always."""
    return FixedClock(Prices(), CLOCKS_MHZ[0])


@dataclass(frozen=True)
class Case:
    """A tiny cluster's hour: jobs, and which of them are protected.

    Attributes:
        workload: Ten jobs on eight GPUs; the protected ones never ask for more than all of these together.
    """

    workload: Workload

    @property
    def slowdown(self) -> dict[int, float]:
        """Declared slowdown by number of the protected job."""
        return {number: job.max_slowdown for number, job in enumerate(self.workload.jobs) if job.protected}


def random_case(seed: int, jobs: int = 10) -> Case:
    """A case by seed."""
    rng = np.random.default_rng([seed, 0x9207])
    tables = [random_table(rng) for _ in range(4)]
    submit_s = np.sort(rng.uniform(0, 1800, jobs))
    free, made = 8, []
    for number in range(jobs):
        kind, gpus = int(rng.integers(4)), int(rng.choice([1, 2, 4]))
        alone_s = float(rng.uniform(60, 3600))
        protected, slowdown = gpus <= free and rng.random() < 0.4, math.inf
        if protected:
            free -= gpus
            slowdown = float(rng.choice([0.0, 0.05, 0.1, 0.3]))
        work = alone_s / tables[kind].step_time_s[int(np.log2(gpus)), -1]
        weight = float(rng.choice([0.5, 1.0, 4.0]))
        job = Job(f"job-{number}", float(submit_s[number]), f"c{kind}", work, gpus, 1, 8, weight)
        made.append(dataclasses.replace(job, protected=protected, max_slowdown=slowdown))
    axes = {"A100": Axes("A100", 8, COUNTS, CLOCKS_MHZ)}
    truth = {(f"c{kind}", "A100"): table for kind, table in enumerate(tables)}
    return Case(Workload(f"case {seed}", tuple(made), parse_cluster("1x8:A100"), axes, truth, {}))


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


class Restless(Wrong):
    """Believes something else, as wrong as before, whenever a job has run: every plan rests on other numbers."""

    def __init__(self, workload: Workload, seed: int) -> None:
        super().__init__(workload, seed)
        self._believed = [Wrong(workload, 1000 * seed + k).start() for k in range(20)]
        self._turn = 0

    def observe(self, job: Job, change: Change, ran_s: float) -> Sequence[CostLearned]:
        """See `Belief`."""
        self._turn += 1
        return self._believed[self._turn % len(self._believed)]


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
    """Simulate a case with wrong beliefs, under `prices` or, every other seed, under what slows all jobs most."""
    inner = slow() if seed % 2 else Prices()
    policy = Protection(inner) if protected else inner
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


def flood(seed: int, *, load: float, hours: float = 10.0) -> Workload:
    """A stream of short jobs of high priority, and now and then a long one of low priority that needs four GPUs.

    Args:
        seed: Draws arrivals and lengths.
        load: GPU-seconds of the high-priority jobs, over what eight GPUs have.
        hours: How long it goes on.
    """
    rng = np.random.default_rng([seed, 0xF100D])
    step_s = np.outer(1 / COUNTS, 0.3 + 0.7 * CLOCKS_MHZ[-1] / CLOCKS_MHZ)
    watts = np.outer(COUNTS, 60 + 240 * (CLOCKS_MHZ / CLOCKS_MHZ[-1]) ** 2.5)
    ones = np.ones(len(COUNTS), np.int64)
    end_s, mean_s = hours * 3600.0, 600.0
    count = rng.poisson(load * 8 * end_s / mean_s)
    at_s, work_s = rng.uniform(0, end_s, count), rng.exponential(mean_s, count)
    jobs = [Job(f"high-{k}", float(at_s[k]), "any", float(work_s[k]), 1, 1, 8, 8.0) for k in range(count)]
    for k, when_s in enumerate(np.sort(rng.uniform(0, end_s / 2, 4)).tolist()):
        jobs.append(Job(f"low-{k}", when_s, "any", 40_000.0, 4, 4, 8, 0.25))
    jobs.sort(key=lambda job: job.submit_s)
    axes = {"A100": Axes("A100", 8, COUNTS, CLOCKS_MHZ)}
    truth = {("any", "A100"): CostTable(step_s, step_s, watts, ones, ones)}
    return Workload("flood", tuple(jobs), parse_cluster("1x8:A100"), axes, truth, {})


def waits(result: SimulationResult) -> tuple[FloatArray, FloatArray]:
    """``[J]`` each: seconds each job waited for its first GPUs; how many older jobs had not ended when it came."""
    jobs = result.jobs
    before = jobs.submit_s[None, :] < jobs.submit_s[:, None]
    ahead = (before & (jobs.finish_s[None, :] > jobs.submit_s[:, None])).sum(axis=1)
    return jobs.start_s - jobs.submit_s, ahead.astype(float)


@dataclass(frozen=True)
class Drift:
    """What became of promises over many plans.

    Attributes:
        plans: How many there were.
        loosened: The most that a promised pace (seconds per iteration) grew after it was first measured, as a share.
        off: The most that one differed from the true pace as submitted, as a share.
        over: The most by which a JCT exceeded its promise, as a share of the time alone; negative: none did.
    """

    plans: int
    loosened: float
    off: float
    over: float


def drift(seed: int) -> Drift:
    """Protected jobs for 100 plans and more, while what is believed of costs keeps changing."""
    case = long_case(seed)
    policy = Protection(slow())
    belief = Restless(case.workload, seed)
    simulation = Simulation(case.workload, policy, energy_price=DEAR_J, belief=belief)
    seen: dict[int, list[float]] = {}
    while not simulation.run(1):
        inside = simulation.scheduler.policies["A100"]
        assert isinstance(inside, Protection)
        for row, pace in inside.paces.items():
            if np.isfinite(pace.step_s):
                seen.setdefault(row, []).append(pace.step_s)
    jobs = simulation.result().jobs
    rows = np.array(sorted(case.slowdown), np.int64)
    true_s = {row: jobs.alone_s[row] / case.workload.jobs[row].iterations for row in rows.tolist()}
    allowed = np.maximum(
        [case.slowdown[row] for row in rows.tolist()], ((jobs.start_s - jobs.submit_s) / jobs.alone_s)[rows]
    )
    return Drift(
        simulation.decisions,
        max(max(paces) / paces[0] - 1.0 for paces in seen.values()),
        max(abs(paces[-1] / true_s[row] - 1.0) for row, paces in seen.items()),
        float(((jobs.jct_s / jobs.alone_s - 1.0)[rows] - allowed).max()),
    )


def long_case(seed: int) -> Case:
    """Like `random_case`, with two protected jobs of some hours."""
    case = random_case(seed)
    rng = np.random.default_rng([seed, 0x10])
    jobs = [dataclasses.replace(job, protected=False, max_slowdown=math.inf) for job in case.workload.jobs]
    for number, slowdown in ((0, 0.1), (1, 0.2)):
        step_s = case.workload.truth[jobs[number].cost_class, "A100"].step_time_s[2, -1]
        work = float(rng.uniform(2, 4)) * 3600.0 / step_s
        jobs[number] = dataclasses.replace(jobs[number], gpus=4, iterations=work, protected=True, max_slowdown=slowdown)
    return Case(dataclasses.replace(case.workload, jobs=tuple(jobs)))


def three_projects(seed: int) -> Workload:
    """A day of three projects on 24 GPUs; the first submits four times as much as each of the others."""
    rng = np.random.default_rng([seed, 0xFA17])
    tables = [random_table(rng) for _ in range(3)]
    jobs = []
    for k, at_s in enumerate(np.sort(rng.uniform(0, 24 * 3600, 240)).tolist()):
        kind, gpus = int(rng.integers(3)), int(rng.choice([1, 2, 4]))
        work = float(rng.lognormal(8.3, 1.0)) / tables[kind].step_time_s[int(np.log2(gpus)), -1]
        project = str(rng.choice(["big", "left", "right"], p=[4 / 6, 1 / 6, 1 / 6]))
        jobs.append(Job(f"job-{k}", at_s, f"c{kind}", work, gpus, 1, 8, project=project))
    axes = {"A100": Axes("A100", 8, COUNTS, CLOCKS_MHZ)}
    truth = {(f"c{kind}", "A100"): table for kind, table in enumerate(tables)}
    return Workload(f"three projects {seed}", tuple(jobs), parse_cluster("3x8:A100"), axes, truth, {})


def promises(seeds: int) -> None:
    """Start delays and slowdowns of protected jobs, beliefs 20 % off."""
    began, kept = time.process_time(), [keep(random_case(seed), seed) for seed in range(seeds)]
    cpu_s = time.process_time() - began
    delay_s, most_s = (np.concatenate([getattr(one, key) for one in kept]) for key in ("delay_s", "most_delay_s"))
    slowdown, most, declared = (
        np.concatenate([getattr(one, key) for one in kept]) for key in ("slowdown", "most_slowdown", "declared")
    )
    over, short = slowdown - most, most > declared
    print(
        f"protected jobs: {seeds:,} seeds, {len(over):,} jobs, beliefs off by up to {MODEL_ERROR:.0%} ({cpu_s:.0f} s)"
    )
    print(f"  worst start delay: {delay_s.max():.1f} s; over max(60 s, 1 %) in {(delay_s > most_s).sum()} jobs")
    print(f"  slowdown above the promise: in {(over > 1e-9).sum()} jobs; the worst by {max(0.0, over.max()):.2g}")
    for share in np.unique(declared).tolist():
        rows = (declared == share) & ~short
        if rows.any():
            print(f"  declared {share:4.0%}: mean {slowdown[rows].mean():6.2%}, worst {slowdown[rows].max():6.2%}")
    print(f"  {short.sum()} jobs were so short that the start delay alone was more than declared: never slowed besides")
    sample = range(min(seeds, 500))
    free = [keep(random_case(seed), seed, protected=False) for seed in sample]
    broken = sum(int((one.slowdown > one.most_slowdown + 1e-9).sum()) for one in free)
    print(
        f"  without protection: {broken} of {sum(len(one.slowdown) for one in free)} jobs of {len(sample)} seeds broken"
    )


def drifts(seeds: int) -> None:
    """What becomes of promises over hundreds of plans on changing beliefs."""
    found = [drift(seed) for seed in range(seeds)]
    print(f"drift: {seeds} seeds, {min(one.plans for one in found)} plans and more, beliefs that change all the time")
    print(f"  a promised pace was loosened by {max(one.loosened for one in found):.1%} at most,", end=" ")
    print(f"and was {max(one.off for one in found):.1e} off the truth")
    print(f"  JCT minus promise: {max(one.over for one in found):+.2%} of the time alone at most")


def regrets() -> None:
    """GPU-hours lost to rescaling, under an adversary."""
    print("a day of bursts timed to make jobs change back and forth: share of GPU-hours lost; mean JCT")
    for pause_s, burst in (
        (30.0, (120.0, 2, 30.0, 2)),
        (30.0, (120.0, 1, 60.0, 2)),
        (120.0, (180.0, 4, 60.0, 2)),
        (120.0, (180.0, 1, 120.0, 1)),
    ):
        workload, world = adversary(*burst), World(pause_s=pause_s)
        plain, steady = (simulate(workload, policy, world=world) for policy in (Prices(), Hysteresis(Prices())))
        print(
            f"  pause {pause_s:3.0f} s, {burst}:"
            f" prices {share_lost(plain, pause_s):.1%}, {plain.jobs.jct_s.mean():.0f} s;"
            f" steady {share_lost(steady, pause_s):.2%}, {steady.jobs.jct_s.mean():.0f} s"
        )


def starvation() -> None:
    """The longest wait of a job of low priority in a flood of others."""
    print("a flood of jobs of high priority: longest wait; the bound that ageing keeps, patience 1 h")
    for load in (0.7, 0.95, 1.3):
        workload = flood(0, load=load)
        plain_s, _ = waits(simulate(workload, Prices()))
        aged_s, ahead = waits(simulate(workload, Ageing(Prices(), patience_s=3600.0)))
        bound_s = 3600.0 + (ahead + 1) * 900.0
        print(
            f"  load {load:.2f}: prices {plain_s.max() / 3600:.1f} h;"
            f" ageing {aged_s.max() / 3600:.1f} h, at most {(aged_s / bound_s).max():.0%} of a job's bound"
        )


def shares(seeds: int) -> None:
    """How projects fare, with fair shares and without."""
    print(
        f"three projects, one submits four times as much ({seeds} seeds): mean ρ of each; Jain's index of ρ; mean JCT"
    )
    for name in ("prices", "fair"):
        found, jct_s = [], []
        for seed in range(seeds):
            workload = three_projects(seed)
            policy = FairShare(Prices()) if name == "fair" else Prices()
            result = simulate(workload, policy)
            found.append(fairness(workload, result, lambda part: simulate(part, Prices())))
            jct_s.append(result.jobs.jct_s.mean())
        rho = {
            row.project: np.mean([one.projects[k].rho_mean for one in found]) for k, row in enumerate(found[0].projects)
        }
        said = ", ".join(f"{project} {value:.2f}" for project, value in rho.items())
        print(f"  {name}: {said}; Jain {np.mean([one.jain_rho for one in found]):.3f}; {np.mean(jct_s):.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many cases of protected jobs")
    arguments = parser.parse_args()
    drifts(20)
    regrets()
    starvation()
    shares(5)
    promises(arguments.seeds)


if __name__ == "__main__":
    main()
