"""Is an energy budget kept over a year, and what does keeping it cost?

    python -m benchmarks.budget [--days 365] [--share 0.8] [--seed 0] [--log itp/cluster08.csv]

Days of a real log (``../shared/data/traces``) are drawn with replacement onto 32 simulated A100s; each fortnight has a
load of its own within ± 50 %; the scheduler's models are wrong by up to 10 %, half of it for all classes alike. The
budget is a share of what the cluster would use without one. Some minutes on two cores. Simulated, not measured.

Two things to compare with, both a constant λ_E chosen in hindsight: the best that keeps the same windows by the same
limit in watts; and, free of windows, the one that uses as much energy in the whole year.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from benchmarks.governed.long_run import Constant, LongRun
from benchmarks.governed.verdict import Verdict, kept, verdict
from benchmarks.governed.year import resample
from powerflow.energy.budget import Budget
from powerflow.simulate.frontier import natural_price
from powerflow.simulate.workload.build import build_workload
from powerflow.trace.read import read_trace
from powerflow.units import DAY_S

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
ZONE = "Europe/Berlin"
GPUS = 32
LOAD = 0.7
#: Constants to choose from, in natural prices: under the budget, and free.
CONSTANTS = (4.0, 6.0, 9.0, 14.0, 20.0, 30.0)
FREE = (0.0, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Came:
    """What a run came to: mean completion time, joules of the days simulated, how the budget was kept."""

    jct_s: float
    used_j: float
    verdict: Verdict


def long_run(log: str, days: int, seed: int) -> LongRun:
    year = resample(read_trace(TRACES / log), days, gpus=GPUS, load=LOAD, seed=seed)
    workload = build_workload(year.trace, f"{GPUS // 8}x8:A100", most_gpus=8, seed=seed)
    # times are counted from the first job; days begin at midnight
    shift = year.trace.jobs[0].submit_s
    jobs = [replace(job, submit_s=job.submit_s + shift) for job in workload.jobs]
    epoch_s = datetime(2026, 1, 1, tzinfo=ZoneInfo(ZONE)).timestamp()
    return LongRun(replace(workload, jobs=jobs), days, epoch_s, 0.1, seed)


def come(run: LongRun, budget: Budget, price: float | None, free: bool = False) -> Came:
    """Under a governor (price None), or at a constant price."""
    simulation = run.simulation(run.governor(budget) if price is None else Constant(run, budget, price, free=free))
    simulation.run()
    until_s = run.days * DAY_S
    time_s, meter_j = zip(*((tick.now_s, tick.meter_j) for tick in simulation.ticks), strict=True)
    jct_s = simulation.result().jobs.jct_s
    windows = kept(simulation.ticks, budget, run.epoch_s, until_s)
    return Came(float(jct_s.mean()), float(np.interp(until_s, time_s, meter_j)), verdict(windows, simulation.ticks))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--days", type=int, default=365)
    options.add_argument("--share", type=float, default=0.8)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--log", default="itp/cluster08.csv")
    asked = options.parse_args()
    if not TRACES.is_dir():
        sys.exit(f"{TRACES}: no such folder")
    run = long_run(asked.log, asked.days, asked.seed)
    scale = natural_price(run.workload)
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        parts = [range(first, min(first + 20, asked.days)) for first in range(0, asked.days, 20)]
        run = replace(run, responses=[day for part in pool.map(run.replay, parts) for day in part])
        print(f"{len(run.workload.jobs):,} jobs of {asked.days} days of {asked.log}, seed {asked.seed}; {GPUS} A100s")
        endless = Budget(1e15, "month", ZONE)
        free = [pool.submit(come, run, endless, scale * price, free=True) for price in FREE]
        a_day = asked.share * free[0].result().used_j / asked.days
        print(f"budget {a_day / 3.6e6:.1f} kWh a day: {asked.share:.0%} of what is used without one", flush=True)
        budgets = Budget(a_day, "day", ZONE), Budget(a_day * 365 / 12, "month", ZONE)
        governors = [pool.submit(come, run, budget, None) for budget in budgets]
        constants = [[pool.submit(come, run, budget, scale * price) for price in CONSTANTS] for budget in budgets]
        yearly = {came.result().used_j: came.result().jct_s for came in free}
        print(f"{'':26}  mean JCT  spent  most over (how many)  running  unspent*  limit  cut")
        for budget, governor, fixed in zip(budgets, governors, constants, strict=True):
            governed = governor.result()
            _row(f"{budget.period}: governor", governed)
            for price, came in zip(CONSTANTS, fixed, strict=True):
                _row(f"  constant {price:g}", came.result())
            best_s = min(came.result().jct_s for came in fixed)
            print(f"  mean JCT over the best constant's: {governed.jct_s / best_s - 1:+.1%}")
            used_s = _yearly(yearly, governed.used_j)
            print(
                f"  over that of a constant free of windows, at equal energy: {governed.jct_s / used_s - 1:+.1%}",
                flush=True,
            )
    print("* mean over windows that ended while energy was withheld and jobs waited (the most; how many of all)")


def _yearly(jct_s: dict[float, float], used_j: float) -> float:
    """Mean JCT at this energy, seconds: a straight line between the runs next to it (joules → JCT)."""
    energies, times = zip(*sorted(jct_s.items()), strict=True)
    return float(np.interp(used_j, energies, times))


def _row(name: str, came: Came) -> None:
    v = came.verdict
    over = f"{v.worst_over:.2%} ({v.over})"
    unspent = f"{v.unspent_waiting:.2%} ({v.most_unspent_waiting:.1%}; {v.waiting}/{v.windows})"
    print(f"{name:26}  {came.jct_s / 3600:6.2f} h  {v.spent:5.1%}  {over}  {v.running}  {unspent}  ", end="")
    print(f"{v.limited:.1%}  {v.cut:.1%}", flush=True)


if __name__ == "__main__":
    main()
