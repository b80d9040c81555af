"""Measure what a global batch that may change gains, on Pollux' eight workloads.

    python -m benchmarks.goodput

Jobs, step times and cluster are those of `benchmarks.artifacts`. Each policy is simulated twice: with the batches that
the workloads name, and with batches that may change between the smallest and the largest batch for which Pollux'
artifact has a training curve (`LARGEST_BATCH`). The noise scale of each application is constant over its training, and
follows from the iterations that the artifact publishes (`powerflow.trace.formats.pollux.noise_scale_of`). NCF keeps its
batch, as in the artifact. *Original* is the artifact's Pollux, which changes batches too, by noise scales that change
from epoch to epoch. About one CPU-minute.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import cache

import numpy as np

from benchmarks.artifacts import AXES, PRINTED, SMALLEST_BATCH, TRACES, cost_table, mean_jct_s, workload
from powerflow.cost.batch_range import BatchRange, progress
from powerflow.cost.goodput import batches_to_try, fastest
from powerflow.cost.table import CostTable
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.formats.pollux import noise_scale_of

POLICIES = ("prices", "pollux", "afs", "optimus")
#: Largest global batch of each application with a training curve in the artifact (simulator/traces).
LARGEST_BATCH = {"bert": 384, "cifar10": 4096, "deepspeech2": 640, "imagenet": 12_800, "yolov3": 512}


def changing(jobs: Workload) -> Workload:
    """Return a workload in which each job of an application in `LARGEST_BATCH` may change its global batch."""
    truth = {(name, "T4"): best_table(name) for name, _ in jobs.truth}
    most = {name: int(AXES.gpu_counts[np.isfinite(table.step_time_s[:, 0])][-1]) for (name, _), table in truth.items()}
    freed = tuple(dataclasses.replace(job, gpus_max=most[job.cost_class]) for job in jobs.jobs)
    return dataclasses.replace(jobs, jobs=freed, truth=truth)


@cache
def best_table(cost_class: str) -> CostTable:
    """Return the costs of a class of jobs (APPLICATION/BATCH) at the best batch for each GPU count."""
    application, _, text = cost_class.partition("/")
    own = int(text)
    if application not in LARGEST_BATCH:
        return cost_table(application, own, AXES)
    allowed = BatchRange(SMALLEST_BATCH[application], LARGEST_BATCH[application], noise_scale_of(application))
    batches = batches_to_try(own, allowed)
    tables = [cost_table(application, batch, AXES) for batch in batches]
    return fastest(tables, [progress(allowed.noise_scale, own, batch) for batch in batches])


def main() -> None:
    if not TRACES.is_dir():
        sys.exit(f"{TRACES}: no such folder; the workloads are not part of this repository")
    print("noise scales: " + ", ".join(f"{name} {noise_scale_of(name):.0f}" for name in LARGEST_BATCH))
    print("mean completion time in seconds, fixed → changing batches")
    print("| workload | " + " | ".join(POLICIES) + " | original |\n" + "|---" * (len(POLICIES) + 2) + "|")
    found_s: dict[str, list[tuple[float, float]]] = {name: [] for name in POLICIES}
    for number, printed_s in enumerate(PRINTED["pollux"], start=1):
        fixed = workload(number)
        free = changing(fixed)
        cells = []
        for name in POLICIES:
            found_s[name].append((mean_jct_s(name, fixed), mean_jct_s(name, free)))
            cells.append("{:.0f} → {:.0f}".format(*found_s[name][-1]))
        print(f"| {number} | " + " | ".join(cells) + f" | {printed_s:.0f} |", flush=True)
    original_s = np.array(PRINTED["pollux"])
    ours_s = np.array([free_s for _, free_s in found_s["prices"]])
    print("geometric means of ratios of mean completion times")
    print("| policy | changing ÷ fixed | fixed ÷ original | changing ÷ original | prices ÷ policy, both changing |")
    print("|---|---|---|---|---|")
    for name, pairs in found_s.items():
        fixed_s, free_s = np.array(pairs).T
        ratios = free_s / fixed_s, fixed_s / original_s, free_s / original_s, ours_s / free_s
        print(f"| {name} | " + " | ".join(f"{np.exp(np.mean(np.log(ratio))):.3f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
