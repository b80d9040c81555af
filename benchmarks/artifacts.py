"""Compare our baselines with the mean completion times that Pollux' artifact prints for its eight workloads.

    python -m benchmarks.artifacts [--policies tiresias,optimus,pollux,prices]

Pollux' authors published their simulator and its results (petuum/adaptdl, branch osdi21-artifact, Qiao et al.,
OSDI'21; `PRINTED` holds the mean completion times of ``simulator/results-jobload/*-1.0/summary.json``). This benchmark
runs the same jobs (``../shared/data/traces/pollux``) with the same step times (``../shared/data/profiles/pollux``,
measured on T4s) on the same cluster, and prints ours ÷ theirs.

As there: 16 nodes of 4 GPUs; decisions every 60 s; a job pauses 30 s when its GPUs change, and also when it first
starts; a step of accumulated passes takes the last pass's step time, and for each earlier pass the step time without
synchronising; a job on one GPU whose batch is above the smallest one accumulates at least one pass; step times between
the measured batches and placements are interpolated linearly. Policies know the true step times and sizes, as their
"Optimus+Oracle" does.

What differs:

- Work is a number of iterations at the batch of the workload: as many as fit into the printed completion time of a
  job that never waited (`RUN_S`). For imagenet with batch 3200 no such job was found; its work is interpolated
  (`powerflow.trace.formats.pollux`).
- Their Pollux changes the batch of each job while it trains, except for ncf. Our `pollux` keeps the batch of the
  workload, and so has other work to do.
- A job here starts at once if GPUs are free, there at the next full minute. The scheduler here brings a job together
  on fewer nodes when this is worth its pause.
- Jobs have the GPU counts of `GPU_COUNTS`, there any count.
- Jobs on more nodes than they need have one step time here: that of one node more than needed.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from benchmarks.profiles import PROFILES
from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import axes_for
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job
from powerflow.policy.registry import load
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from powerflow.trace.formats.pollux import iterations_of
from powerflow.trace.read import read_trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces" / "pollux"
NODES, GPUS_PER_NODE = 16, 4
PAUSE_S = 30.0
#: Powers of two, and what the jobs request, as in every study. With each count from 1 to 64, as in the artifact, our
#: AFS, Pollux and Optimus take 5, 4 and 2 % longer: they rescale more often.
GPU_COUNTS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
AXES = axes_for("T4", GPUS_PER_NODE, GPU_COUNTS, clocks=1)

#: Mean completion time in seconds of workloads 1 to 8, as printed by the artifact.
PRINTED: Mapping[str, tuple[float, ...]] = {
    "tiresias": (2473.65, 5144.96, 3876.26, 3280.26, 3501.01, 3469.69, 5479.91, 5079.71),
    "optimus": (4087.06, 6913.88, 3944.01, 5967.75, 5656.25, 5301.88, 7290.86, 6293.79),
    "pollux": (2088.77, 3322.94, 2188.49, 2720.98, 2673.70, 2446.13, 3616.14, 2951.91),
}
#: Seconds that a job runs alone, by application, batch, and GPUs that it requests: its completion time in the
#: artifact's Tiresias results (``tiresias-1.0`` and ``tiresias-0.5``), less 30 s of pause and the wait for the minute.
RUN_S: Mapping[tuple[str, int], Mapping[int, float]] = {
    ("bert", 384): {6: 3092, 8: 2459, 12: 1594, 16: 1324},
    ("cifar10", 2048): {6: 910, 8: 865},
    ("cifar10", 4096): {12: 624, 16: 482},
    ("deepspeech2", 320): {6: 4142, 8: 3530},
    ("deepspeech2", 640): {12: 2477},
    ("imagenet", 6400): {32: 27431},
    ("ncf", 32768): {1: 47},
    ("yolov3", 64): {4: 14102},
}
#: What other policies are compared with: the best of the artifact.
BEST = "pollux"
#: The smallest batch of each application, with which its accuracy was measured (``applications.py`` of the artifact).
SMALLEST_BATCH = {"bert": 12, "cifar10": 128, "deepspeech2": 20, "imagenet": 200, "ncf": 256, "yolov3": 8}
#: The artifact limits yolov3 to 8 samples per GPU and pass, and runs ncf on one GPU only.
MOST_SAMPLES = {"yolov3": 8}
MOST_GPUS = {"ncf": 1}

Steps = tuple[float, float]  # seconds of a pass that synchronises, and seconds of synchronising in it


class StepTimes:
    """Step times of one application, measured on T4s, for any placement and local batch.

    Args:
        application: Name of the application.
    """

    def __init__(self, application: str) -> None:
        folder = PROFILES / "pollux" / application
        placed: dict[str, list[tuple[int, float, float]]] = {}
        points: dict[tuple[int, int, int], list[Steps]] = {}
        for row in _rows(folder / "placements.csv"):
            batch, times = int(row["local_bsz"]), (float(row["step_time"]), float(row["sync_time"]))
            placed.setdefault(row["placement"], []).append((batch, *times))
            gpus = [int(digit) for digit in row["placement"]]
            points.setdefault((len(gpus), sum(gpus), batch), []).append(times)
        self.smallest = min(batch for rows in placed.values() for batch, *_ in rows)
        self.largest = MOST_SAMPLES.get(application, max(batch for rows in placed.values() for batch, *_ in rows))
        self._placed = {name: np.array(sorted(rows)) for name, rows in placed.items()}
        for row in _rows(folder / "scalability.csv"):
            key = int(row["num_nodes"]), int(row["num_replicas"]), int(row["local_bsz"])
            points.setdefault(key, []).append((float(row["step_time"]), float(row["sync_time"])))
        found = np.array([(*key, *np.mean(times, axis=0)) for key, times in points.items()])
        self._between = LinearNDInterpolator(found[:, :3], found[:, 3:])

    def pass_s(self, gpus: int, nodes: int, local_batch: int) -> Steps:
        """Return the seconds of one pass and of its synchronising; nan where nothing near was measured.

        On the fewest nodes, full nodes and a rest are taken, as the artifact places jobs on free nodes.
        """
        full, rest = divmod(gpus, GPUS_PER_NODE)
        rows = self._placed.get((str(rest) if rest else "") + str(GPUS_PER_NODE) * full)
        if rows is not None and nodes == full + (rest > 0):
            inside = rows[0, 0] <= local_batch <= rows[-1, 0]
            step, sync = (np.interp(local_batch, rows[:, 0], rows[:, column]) for column in (1, 2))
            return (float(step), float(sync)) if inside else (math.nan, math.nan)
        step, sync = self._between(np.array([[nodes, gpus, local_batch]], float))[0]
        return float(step), float(sync)


def step_s(times: StepTimes, gpus: int, nodes: int, global_batch: int, smallest_batch: int) -> float:
    """Return the seconds of one iteration, with accumulated passes where a GPU's share of the batch is too large.

    The result is nan where nothing near was measured.
    """
    share = math.ceil(global_batch / gpus)
    passes = math.ceil(share / times.largest)
    if gpus == 1 and global_batch > smallest_batch:
        passes = max(passes, 2)
    step, sync = times.pass_s(gpus, nodes, math.ceil(share / passes))
    return step + (passes - 1) * (step - sync)


def cost_table(application: str, global_batch: int, axes: Axes) -> CostTable:
    """Return the step times of an application at a batch; watts are the same for all, since only time is compared."""
    times, smallest = _times(application), SMALLEST_BATCH[application]
    packed, spread = [], []
    for gpus in axes.gpu_counts.tolist():
        nodes = -(-gpus // GPUS_PER_NODE)
        runs = gpus <= MOST_GPUS.get(application, global_batch // times.smallest)
        here = step_s(times, gpus, nodes, global_batch, smallest) if runs else math.nan
        apart = step_s(times, gpus, min(nodes + 1, gpus, NODES), global_batch, smallest) if runs else math.nan
        packed.append(math.inf if math.isnan(here) else here)
        spread.append(packed[-1] if math.isnan(apart) else max(apart, packed[-1]))
    ones = np.ones(len(packed), np.int64)
    watts = 70.0 * axes.gpu_counts.astype(float)
    return CostTable(np.array(packed)[:, None], np.array(spread)[:, None], watts[:, None], ones, ones)


def work_of(application: str, global_batch: int, table: CostTable) -> float:
    """Return the iterations of a job, so that it runs alone for as long as in the artifact."""
    runs_s = RUN_S.get((application, global_batch))
    if runs_s is None:
        return iterations_of(application, global_batch) or math.nan
    columns = np.searchsorted(AXES.gpu_counts, list(runs_s))
    return float(np.mean(np.array(list(runs_s.values())) / table.step_time_s[columns, 0]))


def workload(number: int) -> Workload:
    """Return one of the eight workloads, with the artifact's step times."""
    trace = read_trace(TRACES / f"workload-{number}.csv")
    first_s = trace.jobs[0].submit_s
    kinds = {(job.model or "", job.global_batch or 0) for job in trace.jobs}
    truth = {(f"{name}/{batch}", "T4"): cost_table(name, batch, AXES) for name, batch in sorted(kinds)}
    jobs = []
    for job in trace.jobs:
        name, batch = job.model or "", job.global_batch or 0
        table = truth[f"{name}/{batch}", "T4"]
        most = int(AXES.gpu_counts[np.isfinite(table.step_time_s[:, 0])][-1])
        work = work_of(name, batch, table)
        jobs.append(Job(job.id, job.submit_s - first_s, f"{name}/{batch}", work, job.gpus, gpus_max=most))
    cluster = f"{NODES}x{GPUS_PER_NODE}:T4"
    return Workload(f"Pollux workload {number}", jobs, parse_cluster(cluster), {"T4": AXES}, truth, {})


def mean_jct_s(spec: str, jobs: Workload) -> float:
    """Return the mean completion time under a policy, with the pause of each job's first start."""
    result = simulate(jobs, load(spec), world=World(pause_s=PAUSE_S))
    return float(result.jobs.jct_s.mean()) + PAUSE_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default="tiresias,optimus,pollux,prices", help="separated by commas")
    specs = parser.parse_args().policies.split(",")
    if not (TRACES.is_dir() and PROFILES.is_dir()):
        sys.exit(f"{TRACES}: no such folder; the workloads are not part of this repository")
    print("mean completion time, seconds (ours ÷ the artifact's)")
    print("| workload | " + " | ".join(f"{spec} ÷ {_original(spec)}" for spec in specs) + " |")
    print("|---|" + "---|" * len(specs))
    ratios: dict[str, list[float]] = {spec: [] for spec in specs}
    for number in range(1, 9):
        jobs, cells = workload(number), []
        for spec in specs:
            ours_s, theirs_s = mean_jct_s(spec, jobs), PRINTED[_original(spec)][number - 1]
            ratios[spec].append(ours_s / theirs_s)
            cells.append(f"{ours_s:.0f} ({ours_s / theirs_s:.2f})")
        print(f"| {number} | " + " | ".join(cells) + " |", flush=True)
    print("| mean | " + " | ".join(_summary(ratios[spec]) for spec in specs) + " |")


def _original(spec: str) -> str:
    name = spec.partition(":")[0]
    return name if name in PRINTED else BEST


def _summary(ratios: Sequence[float]) -> str:
    return f"{np.exp(np.mean(np.log(ratios))):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


@cache
def _times(application: str) -> StepTimes:
    return StepTimes(application)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
