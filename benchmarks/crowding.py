"""How strongly the queue should weigh in the price of a GPU: `prices` at several c_μ, against the proven bound.

    python -m benchmarks.crowding

For five workloads and three prices of energy it prints Σ completion time + λ_E·(joules above idle) over the bound on
that sum, and the mean of these ratios for each c_μ. About a minute. Simulated, from the logs in
``../shared/data/traces``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from powerflow.cost.catalogue import gpu_type
from powerflow.policy.prices import Prices
from powerflow.simulate.bound import bound_for
from powerflow.simulate.build import build_workload
from powerflow.simulate.run import simulate
from powerflow.simulate.workload import Workload
from powerflow.trace.read import read_trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
CASES = (
    ("itp/cluster01.csv", "16x8:A100", 0.8),
    ("itp/cluster01.csv", "16x8:A100", 2.0),
    ("itp/cluster05.csv", "16x8:A100", 1.2),
    ("pollux/workload-1.csv", "16x4:T4", 1.2),
    ("sia/philly-1.csv", "16x4:T4", 2.0),
)
ENERGY_PRICES = (0.0, 3e-4, 2e-3)
CROWDING = (0.7, 1.0, 1.4, 2.0, 3.0)


def costs(workload: Workload, crowding: float) -> list[float]:
    """Σ completion time + λ_E·(joules above idle), seconds, at each price of energy."""
    (card,) = workload.axes
    found = []
    for price in ENERGY_PRICES:
        jobs = simulate(workload, Prices(crowding=crowding), energy_price=price).jobs
        above_idle_j = jobs.energy_j.sum() - gpu_type(card).idle_w * jobs.gpu_s.sum()
        found.append(float(jobs.jct_s.sum() + price * above_idle_j))
    return found


def main() -> None:
    if not TRACES.is_dir():
        sys.exit(f"{TRACES}: no such folder")
    ratios: dict[float, list[float]] = {crowding: [] for crowding in CROWDING}
    print(f"cost over bound at λ_E = {', '.join(f'{price:g}' for price in ENERGY_PRICES)} s/J")
    for file, cluster, load in CASES:
        workload = build_workload(read_trace(TRACES / file), cluster, load=load, most_gpus=64)
        found = {point.energy_price: point.cost_s for point in bound_for(workload, ENERGY_PRICES).points}
        least = np.array([found[price] for price in ENERGY_PRICES])
        for crowding in CROWDING:
            row = np.array(costs(workload, crowding)) / least
            ratios[crowding] += row.tolist()
            print(f"  {file} at {load:g}, c = {crowding:g}: {'  '.join(f'{ratio:.3f}' for ratio in row)}", flush=True)
    for crowding, values in ratios.items():
        print(f"c = {crowding:g}: mean {np.mean(values):.3f}, worst {max(values):.3f}")


if __name__ == "__main__":
    main()
