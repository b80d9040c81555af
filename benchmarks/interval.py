"""Measure what the shortest time between two decisions costs: `prices` with several intervals.

    python -m benchmarks.interval [ENERGY_PRICE]

For each workload it prints mean completion time, energy, p99 slowdown and rescales, relative to decisions 60 s apart.
The energy price is in seconds per joule, by default 0. Waiting jobs start on free GPUs at once whatever the interval
is. Simulated, from the logs in ``../shared/data/traces`` and from generated ones; costs and sizes are known. About two
minutes of CPU time.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from powerflow.arrays import FloatArray
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


def run(workload: Workload, pause_s: float, interval_s: float, energy_price: float) -> tuple[float, ...]:
    """Mean completion time, energy, p99 slowdown and rescales of one simulation."""
    world = World(pause_s=pause_s, interval_s=interval_s)
    result = simulate(workload, load("prices"), world=world, energy_price=energy_price)
    found = metrics(result, result.end_s)
    slowdown_p99 = float(np.percentile(result.jobs.jct_s / result.jobs.alone_s, 99))
    return found.jct_mean_s, found.energy_j, slowdown_p99, max(1.0, float(result.jobs.rescales.sum()))


def main() -> None:
    energy_price = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    logs = dict(workloads())
    cases = [(name, pause_s) for pause_s in PAUSES_S for name in logs]
    others = INTERVALS_S[1:]
    print("mean JCT, energy, p99 slowdown, rescales over those of decisions 60 s apart")
    print(f"{'':34}" + "".join(f"{f'{interval_s:g} s':>30}" for interval_s in others))
    with ProcessPoolExecutor(usable_cores()) as pool:
        runs = {
            (case, interval_s): pool.submit(run, logs[case[0]], case[1], interval_s, energy_price)
            for case in cases
            for interval_s in INTERVALS_S
        }
        ratios = np.empty((len(cases), len(others), 4))
        for row, case in enumerate(cases):
            usual = np.array(runs[case, INTERVALS_S[0]].result())
            ratios[row] = [np.array(runs[case, interval_s].result()) / usual for interval_s in others]
            _line(f"{case[0]}, pause {case[1]:g} s", ratios[row])
    for pause_s in PAUSES_S:
        chosen = [case[1] == pause_s for case in cases]
        _line(f"geometric mean, pause {pause_s:g} s", np.exp(np.log(ratios[chosen]).mean(0)))
    _line("geometric mean", np.exp(np.log(ratios).mean(0)))


def _line(name: str, ratios: FloatArray) -> None:
    cells = (f"{jct:9.3f}{energy:7.3f}{slowdown:7.2f}{rescales:7.2f}" for jct, energy, slowdown, rescales in ratios)
    print(f"{name:34}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
