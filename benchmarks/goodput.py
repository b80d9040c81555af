"""Measure what a global batch that may change gains: `prices` and `pollux` on Pollux' eight workloads.

    python -m benchmarks.goodput

The jobs are those of ``../shared/data/traces/pollux``, their costs those of Pollux' T4 profiles, on 16 nodes of 4 T4s.
Each policy is simulated twice: with the batches that the workloads name, and with batches that may change where the
artifact has training curves (`BATCHES`). The noise scale of each application is constant over its training, and follows
from the iterations that the artifact publishes (`powerflow.trace.formats.pollux.noise_scale_of`). NCF keeps its batch,
as in the artifact. Simulated; one to two minutes.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from benchmarks import profiles
from powerflow.cost.batch_range import BatchRange
from powerflow.cost.costs_file import Costs, catalogue_prior
from powerflow.cost.fit import fit
from powerflow.policy.registry import load
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.trace.formats.pollux import noise_scale_of
from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces" / "pollux"
CLUSTER = "16x4:T4"
POLICIES = ("prices", "pollux", "afs", "optimus")
#: Smallest and largest global batch with a training curve in the artifact (simulator/traces, branch osdi21-artifact).
BATCHES = {
    "bert": (12, 384),
    "cifar10": (128, 4096),
    "deepspeech2": (20, 640),
    "imagenet": (200, 12_800),
    "yolov3": (8, 512),
}


def t4_costs() -> Costs:
    """Return the costs of Pollux' applications on T4: the measured points, and a fit to them elsewhere."""
    fits = {}
    for application in profiles.APPLICATIONS:
        prior = catalogue_prior(application, "T4")
        fits[application, "T4"] = fit(profiles.pollux(application), prior, folds=0)
    return Costs("Pollux' T4 profiles", fits)


def with_changing_batches(trace: Trace) -> Trace:
    """Return a workload in which each job of an application in `BATCHES` may change its global batch."""
    ranges = {name: BatchRange(least, most, noise_scale_of(name)) for name, (least, most) in BATCHES.items()}
    jobs = [dataclasses.replace(job, batch_range=ranges.get(job.model or "")) for job in trace.jobs]
    return dataclasses.replace(trace, jobs=tuple(jobs))


def main() -> None:
    if not TRACES.is_dir():
        sys.exit(f"{TRACES}: no such folder")
    costs = t4_costs()
    print("noise scales: " + ", ".join(f"{name} {noise_scale_of(name):.0f}" for name in BATCHES))
    print(f"mean JCT in hours and energy in kWh on {CLUSTER}, fixed → changing batch")
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in POLICIES}
    against = []
    for path in sorted(TRACES.glob("workload-*.csv")):
        trace = read_trace(path)
        means = {}
        for name in POLICIES:
            found = []
            for jobs in (trace, with_changing_batches(trace)):
                result = simulate(build_workload(jobs, CLUSTER, costs=costs), load(name))
                found.append((float(result.jobs.jct_s.mean()), float(result.metered_j)))
            (fixed_s, fixed_j), (changing_s, changing_j) = found
            means[name] = (fixed_s, changing_s)
            ratios[name].append((changing_s / fixed_s, changing_j / fixed_j))
            print(
                f"  {path.stem} {name}: {fixed_s / 3600:.3f} → {changing_s / 3600:.3f} h, "
                f"{fixed_j / 3.6e6:.1f} → {changing_j / 3.6e6:.1f} kWh",
                flush=True,
            )
        (ours_fixed, ours), (theirs_fixed, theirs) = means["prices"], means["pollux"]
        against.append((ours_fixed / theirs_fixed, ours / theirs))
    for name, found in ratios.items():
        jct, energy = _geometric_means(found)
        print(f"{name}: changing / fixed batch: JCT {jct:.3f}, energy {energy:.3f} (geometric means)")
    fixed, changing = _geometric_means(against)
    print(f"prices / pollux, mean JCT: {fixed:.3f} at fixed batches, {changing:.3f} where they may change")


def _geometric_means(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.exp(np.log(pairs).mean(axis=0))
    return float(first), float(second)


if __name__ == "__main__":
    main()
