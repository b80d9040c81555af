"""Measure what the shortest time between two decisions costs: `prices` with several intervals, energy free.

    python -m benchmarks.interval

For each workload it prints mean completion time, p99 slowdown and rescales, relative to decisions 60 s apart. Waiting
jobs start on free GPUs at once whatever the interval is. Simulated, from the logs in ``../shared/data/traces`` and from
generated ones; costs and sizes are known. A few minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from powerflow.policy.registry import load
from powerflow.simulate.metrics import metrics
from powerflow.simulate.parallel import usable_cores
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from powerflow.trace.read import read_trace
from powerflow.trace.synthetic import generate

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
INTERVALS_S = (60.0, 0.0, 5.0, 15.0, 30.0, 120.0)
PAUSES_S = (5.0, 30.0, 120.0)
JOBS = 500
LOGS = (("itp/cluster01.csv", 300), ("itp/cluster02.csv", 2000), ("itp/cluster05.csv", 1000))
LOADS = (0.8, 1.5)


def workloads() -> Iterator[tuple[str, Workload]]:
    """The workloads of the study, chosen before any was simulated."""
    for log, first in LOGS:
        trace = read_trace(TRACES / log)
        trace = dataclasses.replace(trace, jobs=trace.jobs[first : first + JOBS])
        for rate in LOADS:
            yield f"{log[4:-4]}, load {rate:g}", build_workload(trace, "16x8:A100", load=rate, most_gpus=64)
    for profile in ("philly", "helios"):
        for rate in (0.5, 1.2):
            trace = generate(jobs=JOBS, gpus=128, seed=1, profile=profile)
            yield f"like {profile}, load {rate:g}", build_workload(trace, "16x8:A100", load=rate, most_gpus=64)


def run(workload: Workload, pause_s: float, interval_s: float) -> tuple[float, float, int]:
    """Mean completion time, p99 slowdown and rescales of one simulation."""
    world = World(pause_s=pause_s, interval_s=interval_s)
    result = simulate(workload, load("prices"), world=world)
    found = metrics(result, result.end_s)
    slowdown_p99 = float(np.percentile(result.jobs.jct_s / result.jobs.alone_s, 99))
    return found.jct_mean_s, slowdown_p99, int(result.jobs.rescales.sum())


def main() -> None:
    logs = dict(workloads())
    cases = [(name, pause_s) for pause_s in PAUSES_S for name in logs]
    ratios: dict[float, list[float]] = {interval_s: [] for interval_s in INTERVALS_S[1:]}
    print("mean JCT, p99 slowdown, rescales over those of decisions 60 s apart")
    print(f"{'':34}" + "".join(f"{f'{interval_s:g} s':>22}" for interval_s in INTERVALS_S[1:]))
    with ProcessPoolExecutor(usable_cores()) as pool:
        runs = {
            (case, interval_s): pool.submit(run, logs[case[0]], case[1], interval_s)
            for case in cases
            for interval_s in INTERVALS_S
        }
        for name, pause_s in cases:
            usual = runs[(name, pause_s), INTERVALS_S[0]].result()
            cells = []
            for interval_s, found in ratios.items():
                jct_s, slowdown, rescales = runs[(name, pause_s), interval_s].result()
                found.append(jct_s / usual[0])
                cells.append(f"{found[-1]:8.3f}{slowdown / usual[1]:7.2f}{rescales / max(usual[2], 1):7.2f}")
            print(f"{f'{name}, pause {pause_s:g} s':34}" + "".join(cells), flush=True)
    means = (f"{np.exp(np.mean(np.log(found))):8.3f}{'':14}" for found in ratios.values())
    print(f"{'geometric mean':34}" + "".join(means))


if __name__ == "__main__":
    main()
