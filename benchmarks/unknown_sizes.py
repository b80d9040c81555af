"""Say what it costs `prices` not to know how much work jobs have.

    python -m benchmarks.unknown_sizes [SHIFT]

For 18 workloads it prints the mean completion time over that with known sizes, and the rescales, with four ranks:
``pooled`` (the Gittins index over the GPU-seconds of all completed jobs), ``alike`` (every job lasts as long on what it
requested), ``request`` (by requested GPUs), and ``learnt``, the product's own. SHIFT is added to each seed, and takes
the next workload of the same kind. Simulated, from the logs in ``../shared/data/traces``; three minutes.

The sizes of ``alike`` and ``request`` are no GPU-seconds, so that jobs to come do not count for these two ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import MOST_GPUS, window
from powerflow.arrays import FloatArray
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import Allocation, View
from powerflow.scheduler.sizes.learner import log_units
from powerflow.simulate.belief import belief_named
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace
from powerflow.trace.synthetic import generate

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
#: Source, seed (or number of the workload), load. Chosen before any was simulated.
CASES = (
    *(("ITP 01", 0, 0.8), ("ITP 01", 1, 2.0), ("ITP 02", 0, 1.2), ("ITP 02", 1, 2.0)),
    *(("ITP 05", 0, 1.2), ("ITP 05", 1, 2.0), ("ITP 08", 0, 0.8), ("ITP 08", 1, 2.0)),
    *(("Philly", 0, 0.8), ("Philly", 1, 2.0), ("Helios", 0, 1.2), ("Helios", 1, 2.0)),
    *(("Pollux", 1, 1.2), ("Pollux", 2, 2.0), ("Pollux", 3, 2.0)),
    *(("Sia", 0, 2.0), ("Sia", 3, 2.0), ("Sia", 1, 1.2)),
)
SIA = tuple(f"sia/{log}-{number}.csv" for log in ("philly", "saturn") for number in (1, 2, 3))


@dataclass(slots=True)
class Ranked(Prices):
    """`prices` with another rank: ``sizes`` takes a view and returns by what to rank, with certainty."""

    sizes: Callable[[View], FloatArray] = lambda view: np.ones(len(view.jobs))

    def decide(self, view: View) -> Allocation:
        """Decide by this rank."""
        return Prices.decide(self, view.with_jobs(expected_gpu_s=self.sizes(view), size_log_sd=1e-9))


class Pooled:
    """The Gittins index over the GPU-seconds of all completed jobs, at 64 quantiles; equal before 20 have completed."""

    def __init__(self, workload: Workload) -> None:
        self.iterations = np.array([job.iterations for job in workload.jobs])
        self.active: dict[int, float] = {}  # GPU-seconds per iteration of each active job
        self.seen: list[float] = []

    def __call__(self, view: View) -> FloatArray:
        """Learn from the jobs that have gone since the last call; return the inverse index of those in the view."""
        per_iteration = np.exp(units(view)[1])
        now = dict(zip(view.jobs["id"].tolist(), per_iteration.tolist(), strict=True))
        self.seen += [self.iterations[job] * each for job, each in self.active.items() if job not in now]
        self.active = now
        if len(self.seen) < 20:
            return np.ones(len(view.jobs))
        seen = np.sort(self.seen)
        levels = np.unique(np.append(0.0, np.quantile(seen, np.linspace(0.0, 1.0, 64))))
        ended = np.searchsorted(seen, levels, side="right")
        work = np.append(0.0, np.cumsum(seen))[ended]
        ends = ended[None, :] - ended[:, None]
        longer = levels[None, :] - levels[:, None]
        given = work[None, :] - work[:, None] - levels[:, None] * ends + longer * (len(seen) - ended)[None, :]
        sizes = np.where((longer > 0) & (ends > 0), given / np.maximum(ends, 1), np.inf).min(axis=1)
        sizes[-1] = levels[-1]
        ranks: FloatArray = sizes[np.searchsorted(levels, view.jobs["done"] * per_iteration, side="right") - 1]
        return ranks


def units(view: View) -> FloatArray:
    """Logarithms of the seconds and GPU-seconds of an iteration of each job."""
    return log_units(view.jobs, view.gpu_counts, view.step_time_s)


def alike(view: View) -> FloatArray:
    seconds, gpu_seconds, _ = units(view)
    ratio: FloatArray = np.exp(gpu_seconds - seconds)
    return ratio


def request(view: View) -> FloatArray:
    return view.jobs["requested"].astype(np.float64)


def trace_of(source: str, seed: int) -> Trace:
    kind, _, number = source.partition(" ")
    if kind == "ITP":
        return window(read_trace(TRACES / f"itp/cluster{number}.csv"), 500, seed)
    if kind == "Philly":
        return window(read_trace(TRACES / "philly.csv.gz"), 1000, seed)
    if kind == "Helios":
        return generate(jobs=800, days=2, gpus=128, seed=seed, profile="helios")
    return read_trace(TRACES / (f"pollux/workload-{(seed - 1) % 8 + 1}.csv" if kind == "Pollux" else SIA[seed % 6]))


def workloads(shift: int) -> Iterator[tuple[str, Workload]]:
    for source, seed, load in CASES:
        cluster = "16x4:T4" if source in ("Pollux", "Sia") else "16x8:A100"
        trace = trace_of(source, seed + shift)
        yield (
            f"{source} {seed + shift} at {load:g}",
            build_workload(trace, cluster, load=load, seed=seed + shift, most_gpus=MOST_GPUS),
        )


def main() -> None:
    if not TRACES.is_dir():
        sys.exit(f"{TRACES}: no such folder")
    ranks: dict[str, Callable[[Workload], Prices]] = {
        "pooled": lambda workload: Ranked(sizes=Pooled(workload)),
        "alike": lambda _: Ranked(sizes=alike),
        "request": lambda _: Ranked(sizes=request),
        "learnt": lambda _: Prices(),
    }
    table = []
    print(f"{'':16}" + "".join(f"{name:>16}" for name in ranks) + f"{'known':>14}")
    for name, workload in workloads(int(sys.argv[1]) if len(sys.argv) > 1 else 0):
        known = simulate(workload, Prices()).jobs
        belief = belief_named("oracle", workload, sizes="unknown")
        found = [simulate(workload, rank(workload), belief=belief).jobs for rank in ranks.values()]
        table.append([float(jobs.jct_s.mean() / known.jct_s.mean()) for jobs in found])
        cells = zip(table[-1], found, strict=True)
        row = "".join(f"{ratio:9.3f} {jobs.rescales.sum():6d}" for ratio, jobs in cells)
        print(f"{name:16}{row} {known.jct_s.mean():6.0f} s {known.rescales.sum():5d}", flush=True)
    ratios = np.array(table)
    print(f"{'mean':16}" + "".join(f"{ratio:9.3f}       " for ratio in np.exp(np.log(ratios).mean(axis=0))))
    print(f"{'worst':16}" + "".join(f"{ratio:9.3f}       " for ratio in ratios.max(axis=0)))
    for other, column in (("alike", 1), ("request", 2)):
        lost = ratios[:, 3] - np.minimum(ratios[:, 0], ratios[:, column])
        print(
            f"learnt within 0.02 of the better of pooled and {other}: {(lost <= 0.02).sum()}; worst {lost.max():+.3f}"
        )


if __name__ == "__main__":
    main()
