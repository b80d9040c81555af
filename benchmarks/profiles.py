"""The measured profiles beside the checkout, as observations. See ``../shared/data/README.md`` for their sources."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from powerflow.cost.catalogue import gpu_type
from powerflow.cost.observation import Observation

PROFILES = Path(__file__).resolve().parents[2] / "shared" / "data" / "profiles"
APPLICATIONS = ("cifar10", "imagenet", "bert", "deepspeech2", "yolov3", "ncf")
POLLUX_GPUS_PER_NODE = 4

#: Zeus gives seconds per epoch; errors and fits do not depend on how many samples an epoch has, shares do not either.
ZEUS_EPOCH_SAMPLES = 100_000
IMAGENET_SAMPLES = 1_281_167


def pollux(application: str) -> list[Observation]:
    """All measured points of one application on T4, placements and scalability."""
    return [seen for _, seen in pollux_placements(application)] + list(_pollux_scalability(application))


def pollux_placements(application: str) -> list[tuple[str, Observation]]:
    """(placement, observation) of one application on T4; a placement's digits are the GPUs on each node."""
    found = []
    for row in _rows(PROFILES / "pollux" / application / "placements.csv"):
        gpus = [int(digit) for digit in row["placement"]]
        seen = Observation(
            application, "T4", sum(gpus), int(row["local_bsz"]), float(row["step_time"]), nodes=len(gpus)
        )
        found.append((row["placement"], seen))
    return found


def _pollux_scalability(application: str) -> Iterator[Observation]:
    for row in _rows(PROFILES / "pollux" / application / "scalability.csv"):
        gpus, nodes = int(row["num_replicas"]), int(row["num_nodes"])
        yield Observation(application, "T4", gpus, int(row["local_bsz"]), float(row["step_time"]), nodes=nodes)


def elasticflow(application: str) -> list[tuple[int, int, float]]:
    """(global batch, GPUs, seconds per iteration) of one application on T4; cells that were not run are left out."""
    cells = []
    for row in _rows(PROFILES / "elasticflow_t4" / f"{application}.csv"):
        batch = int(row.pop("global_batch_size"))
        for gpus, rate in row.items():
            if rate and float(rate) > 0:  # nan compares false
                cells.append((batch, int(gpus), 1.0 / float(rate)))
    return cells


def v100_clocks() -> dict[str, list[Observation]]:
    """Thirteen clocks of each workload on V100; times are relative to the maximum clock, watts are measured."""
    folder = PROFILES / "v100_dvfs"
    watts = {row["frequency(MHz)"]: row for row in _rows(folder / "dataset_power.csv")}
    workloads = {}
    for row in _rows(folder / "dataset_performance.csv"):
        name = row.pop("frequency(MHz)")
        workloads[name] = [
            Observation(name, "V100", 1, 1, 1.0 / float(speed), clock_mhz=float(f), power_w=float(watts[name][f]))
            for f, speed in row.items()
        ]
    return workloads


def zeus(gpu: str) -> dict[tuple[str, str, str], list[Observation]]:
    """Batch sizes of each (data set, network, optimizer) at the full power limit, by rising batch."""
    rows = list(_rows(PROFILES / "zeus" / f"summary_power_{gpu.lower()}.csv"))
    full = max(int(row["power_limit"]) for row in rows)
    jobs: dict[tuple[str, str, str], list[Observation]] = {}
    for row in rows:
        if int(row["power_limit"]) == full:
            batch = int(row["batch_size"])
            seconds = float(row["time_per_epoch"]) * batch / ZEUS_EPOCH_SAMPLES
            seen = Observation(
                row["network"], gpu_type(gpu).name, 1, batch, seconds, power_w=float(row["average_power"])
            )
            jobs.setdefault((row["dataset"], row["network"], row["optimizer"]), []).append(seen)
    return {job: sorted(points, key=lambda o: o.local_batch) for job, points in jobs.items()}


def zeus_limits(gpu: str) -> dict[tuple[str, str, str], list[Observation]]:
    """Batch sizes of each (data set, network, optimizer) at every power limit; the clock was not logged."""
    jobs: dict[tuple[str, str, str], list[Observation]] = {}
    for row in _rows(PROFILES / "zeus" / f"summary_power_{gpu.lower()}.csv"):
        batch = int(row["batch_size"])
        seconds = float(row["time_per_epoch"]) * batch / ZEUS_EPOCH_SAMPLES
        watts, limit_w = float(row["average_power"]), float(row["power_limit"])
        name = gpu_type(gpu).name
        seen = Observation(row["network"], name, 1, batch, seconds, power_w=watts, power_limit_w=limit_w)
        jobs.setdefault((row["dataset"], row["network"], row["optimizer"]), []).append(seen)
    return jobs


def zeus_full_limit_w(gpu: str) -> float:
    """The highest power limit of Zeus' profile of a GPU type, in watts."""
    return max(float(row["power_limit"]) for row in _rows(PROFILES / "zeus" / f"summary_power_{gpu.lower()}.csv"))


def zeus_windows(name: str) -> list[tuple[float, list[float]]]:
    """(seconds, joules of each GPU) of the same piece of training at power limits from high to low, on V100."""
    windows = []
    for row in _rows(PROFILES / "zeus" / name):
        joules = [float(value) for key, value in row.items() if key.endswith("_energy")]
        windows.append((float(row["elapsed_time"]), joules))
    return windows


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
