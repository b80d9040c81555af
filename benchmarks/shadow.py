"""Do the intervals that shadow gives hold what comes? And what would acting have saved?

    python -m benchmarks.shadow [--days 14] [--seed 0] [--log itp/cluster08.csv ...]

Days of real logs (``../shared/data/traces``) run on 32 simulated A100s with nobody acted on: first come, first served,
as asked. Each job's time and energy are predicted when it starts, by models fitted to a few noisy points of each class
(so they are wrong, by class and by configuration); the interval is learnt from the jobs that had ended by then, so none
is judged by what it taught. Simulated, not measured; two runs of a job are taken to differ by 8 %.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.governed.year import resample
from powerflow.policy.registry import load
from powerflow.scheduler.calibration import Calibration
from powerflow.simulate.belief import belief_named
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.trace.read import read_trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
LOGS = ("itp/cluster01.csv", "itp/cluster02.csv", "itp/cluster05.csv", "itp/cluster08.csv", "philly.csv.gz")
GPUS = 32
SPREAD = 0.08  # of log(actual / modelled): two runs of the same job do not take equally long


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--days", type=int, default=14)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--log", nargs="*")
    asked = options.parse_args()
    logs = asked.log or [log for log in LOGS if (TRACES / log).exists()]
    if not logs:
        sys.exit(f"{TRACES}: there are no logs")
    print(
        f"{'log':24} {'jobs':>6}  {'time held':>9} {'energy held':>11}   of those for which an 80 % interval was given"
    )
    for log in logs:
        print(f"{log:24} {judged(log, asked.days, asked.seed)}", flush=True)


def judged(log: str, days: int, seed: int) -> str:
    """How many jobs' time and energy lay within the interval that was given when they started."""
    year = resample(read_trace(TRACES / log), days, gpus=GPUS, load=0.7, seed=seed)
    workload = build_workload(year.trace, f"{GPUS // 8}x8:A100", most_gpus=8, seed=seed)
    belief = belief_named("fitted", workload, seed=seed)
    result = simulate(workload, load("fifo"), belief=belief)
    tables = {learned.cost_class: learned.table for learned in belief.start()}
    axes = workload.axes["A100"]
    rng = np.random.default_rng([seed, 0x5AD0])
    jobs, segments = result.jobs, result.segments
    gpus = np.zeros(len(jobs.ids), np.int64)
    gpus[segments.job] = segments.gpus
    run_s = (jobs.finish_s - jobs.start_s) * np.exp(rng.normal(0.0, SPREAD, len(gpus)))
    energy_j = jobs.energy_j * np.exp(rng.normal(0.0, SPREAD, len(gpus)))
    said_s, said_j = np.zeros(len(gpus)), np.zeros(len(gpus))
    for j, job in enumerate(workload.jobs):
        level = int(np.searchsorted(axes.gpu_counts, gpus[j]))
        table = tables[job.cost_class]
        said_s[j] = job.iterations * table.step_time_s[level, -1]
        said_j[j] = said_s[j] * table.power_w[level, -1]
    held = [held_share(jobs.start_s, jobs.finish_s, *pair) for pair in ((said_s, run_s), (said_j, energy_j))]
    return f"{len(gpus):>6}  {held[0]:>9.1%} {held[1]:>11.1%}"


def held_share(start_s: np.ndarray, finish_s: np.ndarray, said: np.ndarray, came: np.ndarray) -> float:
    """Share of outcomes within their 80 % interval; each interval from the outcomes known when the job started."""
    calibration, known, within, given = Calibration(), 0, 0, 0
    by_end = np.argsort(finish_s, kind="stable")
    for j in np.argsort(start_s, kind="stable"):
        while known < len(by_end) and finish_s[by_end[known]] <= start_s[j]:
            calibration.add(float(said[by_end[known]]), float(came[by_end[known]]))
            known += 1
        interval = calibration.interval(float(said[j]))
        if interval is not None:
            given += 1
            within += interval[0] <= came[j] <= interval[1]
    return within / given


if __name__ == "__main__":
    main()
