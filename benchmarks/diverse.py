"""Compare all policies on many small, different workloads, where only completion time counts (λ_E = 0).

    python -m benchmarks.diverse              # every cell; some minutes
    python -m benchmarks.diverse overload     # cells whose name contains a word

The cells were chosen before any policy was run on them. For each cell the script prints the mean completion time of
each policy over that of the best *other* policy than `prices`, and of `prices` over the proven bound. Simulated, with
the catalogue's costs; sizes are known.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.policy import registry
from powerflow.simulate.bound.bound import bound_for
from powerflow.simulate.metrics import metrics
from powerflow.simulate.parallel import usable_cores
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace, TraceJob
from powerflow.trace.synthetic import generate

DATA = Path(__file__).resolve().parents[2] / "shared"
OTHERS = ("greedy:0", "fifo", "srtf", "qssf", "tiresias", "gandiva", "afs", "optimus", "pollux")

Draw = Callable[[np.random.Generator, int], FloatArray]

#: Seconds that a job lasts on what it requests.
DURATIONS: dict[str, Draw] = {
    "equal": lambda rng, n: np.full(n, 2000.0),
    "near-equal": lambda rng, n: 2000.0 * np.exp(0.05 * rng.standard_normal(n)),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.9, 300.0, 15_000.0),
    "lognormal": lambda rng, n: 1000.0 * np.exp(1.5 * rng.standard_normal(n)),
    "pareto": lambda rng, n: np.minimum(300.0 * (1.0 - rng.random(n)) ** (-1 / 1.2), 300_000.0),
}
#: GPUs that a job requests.
REQUESTS: dict[str, Draw] = {
    "one": lambda rng, n: np.ones(n),
    "mixed": lambda rng, n: rng.choice([1, 2, 4, 8], n, p=[0.6, 0.15, 0.15, 0.1]).astype(float),
    "odd": lambda rng, n: rng.choice([1, 3, 5, 6], n).astype(float),
    "wide": lambda rng, n: rng.choice([1, 8, 32, 64], n, p=[0.4, 0.3, 0.2, 0.1]).astype(float),
}
#: Submission times, in any unit: the load scales them.
ARRIVALS: dict[str, Draw] = {
    "poisson": lambda rng, n: np.cumsum(rng.exponential(size=n)),
    "bursts": lambda rng, n: np.repeat(np.cumsum(rng.exponential(size=-(-n // 25))), 25)[:n] + 0.01 * np.arange(n) / n,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload of the study; ``trace`` names a log or a profile instead of drawn durations and requests."""

    name: str
    durations: str = "lognormal"
    requests: str = "mixed"
    arrivals: str = "poisson"
    cluster: str = "4x8:A100"
    load: float = 1.2
    jobs: int = 250
    rigid: float = 0.0  # share of jobs that run only on what they request
    trace: str = ""
    first: int = 0
    seed: int = 0
    world: World = field(default_factory=World)


def cells() -> Iterator[Cell]:
    """Every cell of the study."""
    for durations in DURATIONS:
        for load in (0.5, 0.8, 1.2, 2.0, 3.0):
            requests = "one" if durations in ("equal", "near-equal") else "mixed"
            yield Cell(f"{durations}, load {load:g}", durations, requests, load=load)
        yield Cell(f"{durations}, bursts", durations, arrivals="bursts", load=1.0)
    for cluster, jobs in (("1x1:A100", 100), ("1x3:A100", 150), ("7x5:A100", 250), ("16x8:T4", 500)):
        for durations in ("near-equal", "lognormal"):
            requests = "one" if cluster == "1x1:A100" else "mixed" if cluster != "1x3:A100" else "one"
            yield Cell(f"{durations} on {cluster}", durations, requests, cluster=cluster, jobs=jobs)
    for load in (0.8, 1.2):
        yield Cell(f"wide on 256x8:A100, load {load:g}", requests="wide", cluster="256x8:A100", load=load, jobs=1500)
    for pause_s in (0.0, 120.0, 300.0, 900.0):
        for durations in ("near-equal", "lognormal"):
            yield Cell(f"{durations}, pause {pause_s:g} s", durations, world=World(pause_s=pause_s))
    for durations in ("near-equal", "bimodal", "pareto"):
        yield Cell(f"{durations}, odd requests", durations, "odd")
        yield Cell(f"{durations}, all rigid", durations, rigid=1.0)
        yield Cell(f"{durations}, half rigid", durations, rigid=0.5, load=2.0)
    for durations in ("equal", "lognormal", "pareto"):
        yield Cell(f"{durations}, failures", durations, world=World(node_mtbf_h=24.0), load=1.0)
    for load in (0.8, 1.2):
        yield Cell(f"philly jobs of 2,000 s, load {load:g}", trace="cases/limit/philly_equal.csv", load=load)
    for log, first in (("itp/cluster01.csv", 900), ("itp/cluster02.csv", 3000), ("itp/cluster05.csv", 1500)):
        for load in (0.8, 1.5):
            trace, cluster = f"data/traces/{log}", "8x8:A100"
            yield Cell(f"{log[4:-4]}, load {load:g}", trace=trace, first=first, cluster=cluster, load=load, jobs=300)
    for profile in ("philly", "helios"):
        yield Cell(f"like {profile}", trace=f"generated:{profile}", cluster="8x8:A100", load=1.2, jobs=400)


def workload_of(cell: Cell) -> Workload:
    """Build the workload of a cell."""
    workload = build_workload(_trace(cell), cell.cluster, load=cell.load, seed=cell.seed, most_gpus=64)
    rigid = np.random.default_rng([cell.seed, 0x41D]).random(len(workload.jobs)) < cell.rigid
    jobs = [
        dataclasses.replace(job, gpus_min=job.gpus, gpus_max=job.gpus) if fixed else job
        for job, fixed in zip(workload.jobs, rigid, strict=True)
    ]
    return dataclasses.replace(workload, jobs=jobs)


def _trace(cell: Cell) -> Trace:
    if cell.trace.startswith("generated:"):
        return generate(jobs=cell.jobs, gpus=64, seed=cell.seed, profile=cell.trace.partition(":")[2])
    if cell.trace:
        trace = read_trace(DATA / cell.trace)
        return dataclasses.replace(trace, jobs=trace.jobs[cell.first : cell.first + cell.jobs])
    rng = np.random.default_rng([cell.seed, *cell.name.encode()])
    submit_s = ARRIVALS[cell.arrivals](rng, cell.jobs)
    duration_s = DURATIONS[cell.durations](rng, cell.jobs)
    gpus = REQUESTS[cell.requests](rng, cell.jobs)
    rows = zip(submit_s.tolist(), duration_s.tolist(), gpus.astype(int).tolist(), strict=True)
    return Trace(cell.name, "drawn", [TraceJob(f"j{i}", *row) for i, row in enumerate(rows)])


def run(cell: Cell) -> dict[str, float]:
    """Mean completion time of each policy on a cell, seconds, and the proven bound on it."""
    workload = workload_of(cell)
    found = {}
    for name in ("prices", *OTHERS):
        result = simulate(workload, registry.load(name), world=cell.world, seed=cell.seed)
        found[name] = metrics(result, result.end_s).jct_mean_s
    (point,) = bound_for(workload, [0.0]).points
    found["bound"] = point.cost_s / len(workload.jobs)
    return found


def main() -> None:
    chosen = [cell for cell in cells() if all(word in cell.name for word in sys.argv[1:])]
    print(f"{'cell':34}{'prices/bound':>13}{'best other':>14}{'prices/other':>13}")
    ratios = []
    with ProcessPoolExecutor(usable_cores()) as pool:
        for cell, found in zip(chosen, pool.map(run, chosen), strict=True):
            best = min(OTHERS, key=found.__getitem__)
            ratios.append(found["prices"] / found[best])
            over_bound = found["prices"] / found["bound"]
            print(f"{cell.name:34}{over_bound:13.3f}{best:>14}{ratios[-1]:13.3f}", flush=True)
    behind = sum(ratio > 1.01 for ratio in ratios)
    print(
        f"{len(ratios)} cells: prices over the best other policy, geometric mean "
        f"{np.exp(np.mean(np.log(ratios))):.3f}, worst {max(ratios):.3f}; more than 1 % behind in {behind}"
    )


if __name__ == "__main__":
    main()
