"""How strongly the crowd should weigh in the rent of a GPU: `prices` at several c_μ, against the proven bound.

    python -m benchmarks.crowding

For six workloads and five prices of energy it prints Σ completion time + λ_E·(joules above idle) over the bound on
that sum, and the mean of these ratios for each c_μ. A few minutes. Simulated, from the logs in
``../shared/data/traces``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.catalogue import gpu_type
from powerflow.policy.prices import Prices
from powerflow.simulate.bound.bound import bound_for
from powerflow.simulate.frontier import natural_price
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.read import read_trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
CASES = (
    ("itp/cluster01.csv", "16x8:A100", 0.8),
    ("itp/cluster01.csv", "16x8:A100", 2.0),
    ("itp/cluster05.csv", "16x8:A100", 0.8),
    ("itp/cluster05.csv", "16x8:A100", 1.2),
    ("pollux/workload-1.csv", "16x4:T4", 1.2),
    ("sia/philly-1.csv", "16x4:T4", 2.0),
)
#: In units of the natural price: from time only to almost energy only.
ENERGY_PRICES = (0.0, 1 / 4, 1.0, 4.0, 16.0)
CROWDING = (1.0, 1.4, 2.0, 3.0)


def costs(workload: Workload, crowding: float, prices: Sequence[float]) -> list[float]:
    """Σ completion time + λ_E·(joules above idle), seconds, at each price of energy."""
    (card,) = workload.axes
    found = []
    for price in prices:
        jobs = simulate(workload, Prices(crowding=crowding), energy_price=price).jobs
        above_idle_j = jobs.energy_j.sum() - gpu_type(card).idle_w * jobs.gpu_s.sum()
        found.append(float(jobs.jct_s.sum() + price * above_idle_j))
    return found


def main() -> None:
    if not TRACES.is_dir():
        sys.exit(f"{TRACES}: no such folder")
    ratios: dict[float, list[list[float]]] = {crowding: [] for crowding in CROWDING}
    print(f"cost over bound at λ_E = {', '.join(f'{price:g}' for price in ENERGY_PRICES)} natural prices")
    for file, cluster, load in CASES:
        workload = build_workload(read_trace(TRACES / file), cluster, load=load, most_gpus=64)
        prices = [share * natural_price(workload) for share in ENERGY_PRICES]
        found = {point.energy_price: point.cost_s for point in bound_for(workload, prices).points}
        least = np.array([found[price] for price in prices])
        for crowding in CROWDING:
            row = np.array(costs(workload, crowding, prices)) / least
            ratios[crowding].append(row.tolist())
            print(f"  {file} at {load:g}, c = {crowding:g}: {_digits(row)}", flush=True)
    for crowding, rows in ratios.items():
        print(f"c = {crowding:g}: {_digits(np.mean(rows, axis=0))}; mean {np.mean(rows):.4f}, worst {np.max(rows):.3f}")


def _digits(ratios: FloatArray) -> str:
    return "  ".join(f"{ratio:.3f}" for ratio in ratios)


if __name__ == "__main__":
    main()
