"""What watching a large site costs: CPU time, memory, and disk.

    python -m benchmarks.watch_scale [GPUS] [JOBS_A_DAY] [HOURS]

The site is made up: its GPUs draw random power, its jobs come at random, and each look gets as JSON what Slurm and a
Prometheus that scrapes every 15 s would answer. Making the answers up is not counted; reading them, assigning the
energy and keeping it is. The network is not in it.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cli.site.watch import EVERY_S
from powerflow.watch.keeper import Keeper
from powerflow.watch.ledger import WatchLedger
from powerflow.watch.sources.prometheus import MetricsSource
from powerflow.watch.sources.prometheus_api import Answer
from powerflow.watch.sources.slurm import read_jobs
from powerflow.watch.watcher import Watcher

SCRAPE_S = 15.0
PER_NODE = 8
#: Scrapes that one answer reaches back over.
SCRAPES = 8
EPOCH_S = 1_790_000_000.0
#: Metrics besides the energy counter, with a value.
METRICS = {
    "DCGM_FI_DEV_SM_CLOCK": "1410",
    "DCGM_FI_DEV_GPU_UTIL": "90",
    "DCGM_FI_PROF_SM_ACTIVE": "0.6",
    "DCGM_FI_PROF_DRAM_ACTIVE": "0.3",
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": "400",
}


@dataclass
class Job:
    """A job of the site: its number, its GPUs, and from when until when it holds them, Unix seconds."""

    number: int
    gpus: list[int]
    start_s: int
    end_s: int

    def record(self, now_s: float) -> dict[str, object]:
        """Return what Slurm says of it."""
        nodes = sorted({gpu // PER_NODE for gpu in self.gpus})
        detail = [
            f"gpu:x(IDX:{','.join(str(gpu % PER_NODE) for gpu in self.gpus if gpu // PER_NODE == node)})"
            for node in nodes
        ]
        runs = self.end_s > now_s
        return {
            "job_id": self.number,
            "job_state": "RUNNING" if runs else "COMPLETED",
            "name": f"train-{self.number % 300}",
            "user_name": f"user{self.number % 80}",
            "account": f"project{self.number % 20}",
            "partition": "gpu",
            "submit_time": self.start_s - 60,
            "start_time": self.start_s,
            "end_time": self.end_s,
            "nodes": ",".join(f"n{node}" for node in nodes),
            "gres_detail": detail if runs else [],
            "tres_alloc_str": "gres/gpu=1",
            "padding": "x" * 2500,  # what else Slurm writes of a job
        }


class Site:
    """Jobs of one to four GPUs, first come, first served; and the answers of its Slurm and of its Prometheus."""

    name = "a made-up Prometheus"

    def __init__(self, gpus: int, jobs_a_day: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.gpus, self.rate = gpus, jobs_a_day / 86_400.0
        self.free = set(range(gpus))
        self.running: list[Job] = []
        self.ended: list[Job] = []
        self.energy_j = np.zeros(gpus)
        self.scrapes: deque[tuple[float, FloatArray, FloatArray]] = deque(maxlen=SCRAPES)
        self.next_s, self.number = EPOCH_S, 0
        self.answer = ""
        # so long that four fifths of the GPUs are held
        self.mean_s = 0.8 * gpus / (self.rate * 2.0)

    def advance(self, now_s: float) -> None:
        """End and start jobs up to a moment, and prepare the answer of Prometheus."""
        for job in [job for job in self.running if job.end_s <= now_s]:
            self.running.remove(job)
            self.free.update(job.gpus)
            self.ended.append(job)
        self.ended = [job for job in self.ended if job.end_s > now_s - 300.0]
        while self.next_s < now_s and self.free:
            count = min(int(self.rng.choice([1, 1, 1, 2, 4, 4])), len(self.free))
            self.number += 1
            end_s = int(now_s + self.rng.exponential(self.mean_s)) + 1
            self.running.append(Job(self.number, [self.free.pop() for _ in range(count)], int(now_s), end_s))
            self.next_s += self.rng.exponential(1 / self.rate)
        for at_s in (now_s - SCRAPE_S, now_s):
            power_w = self.rng.uniform(60.0, 400.0, self.gpus)
            self.energy_j = self.energy_j + power_w * SCRAPE_S
            self.scrapes.append((at_s, self.energy_j, power_w))
        self.answer = json.dumps([series for gpu in range(self.gpus) for series in self._series(gpu)])

    def _series(self, gpu: int) -> list[dict[str, object]]:
        labels = {
            "Hostname": f"n{gpu // PER_NODE}",
            "UUID": f"GPU-{gpu:08d}-0000-0000-0000-000000000000",
            "device": f"nvidia{gpu % PER_NODE}",
            "gpu": str(gpu % PER_NODE),
            "instance": f"n{gpu // PER_NODE}:9400",
            "job": "dcgm",
            "modelName": "NVIDIA A100-SXM4-80GB",
        }
        columns = {
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": [f"{1e3 * energy[gpu]:.0f}" for _, energy, _ in self.scrapes],
            "DCGM_FI_DEV_POWER_USAGE": [f"{power[gpu]:.3f}" for _, _, power in self.scrapes],
            **{name: [value] * len(self.scrapes) for name, value in METRICS.items()},
        }
        times = [at_s for at_s, _, _ in self.scrapes]
        return [
            {"metric": {"__name__": name, **labels}, "values": [*zip(times, values, strict=True)]}
            for name, values in columns.items()
        ]

    def ask(self, query: str, at_s: float) -> Answer:
        """Answer as Prometheus does, whatever the query."""
        series: list[dict[str, Any]] = json.loads(self.answer)
        return Answer(series, (), 0.0)

    def squeue(self, now_s: float) -> str:
        """Return what Slurm says now."""
        return json.dumps({"jobs": [job.record(now_s) for job in self.running + self.ended]})


def main(gpus: int, jobs_a_day: int, hours: float) -> None:
    """Watch a made-up site, and print what it cost."""
    site, watcher = Site(gpus, jobs_a_day), Watcher()
    looks, spent_s, reading_s = int(hours * 3600 / EVERY_S), 0.0, 0.0
    now_s = EPOCH_S
    source = MetricsSource(site, clock=lambda: now_s)
    with tempfile.TemporaryDirectory() as folder:
        ledger = WatchLedger(Path(folder) / "watch.db")
        keeper = Keeper(watcher, ledger)
        half = (0, 0)
        for look in range(1, looks + 1):
            now_s += EVERY_S
            site.advance(now_s)
            slurm = site.squeue(now_s)
            began_s = time.process_time()
            readings = source.read(now_s - EVERY_S, now_s)
            read_s = time.process_time()
            watcher.take(readings, read_jobs(slurm, now_s))
            keeper.settle(now_s, all_of_it=False)
            reading_s += read_s - began_s
            spent_s += time.process_time() - began_s
            if look == looks // 2:
                half = ledger.size(), site.number
        grown, jobs = ledger.size() - half[0], site.number - half[1]
        ledger.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    share, of_reading = (100 * seconds / (looks * EVERY_S) for seconds in (spent_s, reading_s))
    running = len(site.running)
    print(f"{gpus} GPUs, {jobs_a_day} jobs a day, {hours:g} h: {looks} looks, {site.number} jobs, {running} running")
    print(f"CPU: {share:.2f} % of a core, {of_reading:.2f} of it reads Prometheus' answers; target 2 %")
    print(f"memory: {memory:.0f} MiB with the made-up site; target 200")
    per_job = grown / max(jobs, 1)  # with what nobody held
    print(f"file: {per_job:.0f} bytes a job, so about {per_job * jobs_a_day * 30 / 1e6:.0f} MB a month; target 50")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(
        int(words[0]) if words else 1000, int(words[1]) if words[1:] else 10_000, float(words[2]) if words[2:] else 1.0
    )
