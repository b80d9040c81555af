"""What watching a large site costs: CPU time, memory, and disk.

    python -m benchmarks.watch_scale [GPUS] [JOBS_A_DAY] [HOURS]

The site is made up: its GPUs draw random power, its jobs come at random, and each look gets what Slurm (as JSON) and an
exporter scraped every 15 s would give. Making them up is not counted; reading Slurm's answer, assigning the energy and
keeping it is. Reading Prometheus' answer is not in it (see ``tests/watch``).
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from powerflow.cli.site.watch import EVERY_S
from powerflow.watch.keeper import Keeper
from powerflow.watch.ledger import WatchLedger
from powerflow.watch.owners import GpuAddress
from powerflow.watch.readings import Card, Readings
from powerflow.watch.series import series_of
from powerflow.watch.sources.slurm import read_jobs
from powerflow.watch.watcher import Watcher

SCRAPE_S = 15.0
PER_NODE = 8
CARD = Card("", "NVIDIA A100-SXM4-80GB", 400.0)


class Site:
    """Jobs of one to eight GPUs of one node, first come, first served."""

    def __init__(self, gpus: int, jobs_a_day: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.gpus, self.rate = gpus, jobs_a_day / 86_400.0
        self.free = set(range(gpus))
        self.running: list[dict[str, object]] = []
        self.ended: list[dict[str, object]] = []
        self.energy_j = np.zeros(gpus)
        self.next, self.number = 0.0, 0
        # so long that four fifths of the GPUs are held
        self.mean_s = 0.8 * gpus / (self.rate * 2.0)

    def advance(self, now_s: float) -> None:
        """End and start jobs up to a moment."""
        for job in [job for job in self.running if float(str(job["end_time"])) <= now_s]:
            self.running.remove(job)
            self.free |= set(job.pop("held"))  # type: ignore[call-overload]
            self.ended.append(job | {"job_state": "COMPLETED", "gres_detail": []})
        self.ended = [job for job in self.ended if float(str(job["end_time"])) > now_s - 300.0]
        while self.next < now_s and self.free:
            count = min(int(self.rng.choice([1, 1, 1, 2, 4, 4])), len(self.free))
            held = [self.free.pop() for _ in range(count)]
            self.number += 1
            nodes = sorted({gpu // PER_NODE for gpu in held})
            self.running.append(
                {
                    "job_id": self.number,
                    "job_state": "RUNNING",
                    "name": f"train-{self.number % 300}",
                    "user_name": f"user{self.number % 80}",
                    "account": f"project{self.number % 20}",
                    "partition": "gpu",
                    "submit_time": int(self.next),
                    "start_time": int(now_s),
                    "end_time": int(now_s + self.rng.exponential(self.mean_s)) + 1,
                    "nodes": ",".join(f"n{node}" for node in nodes),
                    "gres_detail": [
                        f"gpu:x(IDX:{','.join(str(gpu % PER_NODE) for gpu in held if gpu // PER_NODE == node)})"
                        for node in nodes
                    ],
                    "held": held,
                    "tres_alloc_str": "gres/gpu=1",
                    "padding": "x" * 2500,  # what else Slurm writes of a job
                }
            )
            self.next += self.rng.exponential(1 / self.rate)

    def squeue(self) -> str:
        """Return what Slurm says now."""
        return json.dumps(
            {"jobs": [{k: v for k, v in job.items() if k != "held"} for job in self.running + self.ended]}
        )

    def readings(self, now_s: float) -> Readings:
        """Return two readings of each GPU."""
        series = {}
        power = self.rng.uniform(60.0, 400.0, (self.gpus, 2))
        for gpu in range(self.gpus):
            counter = self.energy_j[gpu] + np.cumsum(power[gpu] * SCRAPE_S)
            self.energy_j[gpu] = counter[-1]
            series[GpuAddress(f"n{gpu // PER_NODE}", gpu % PER_NODE)] = series_of(
                np.array([now_s - SCRAPE_S, now_s]),
                energy_j=counter,
                power_w=power[gpu],
                clock_mhz=np.full(2, 1410.0),
                utilisation=np.full(2, 0.9),
                sm_active=np.full(2, 0.6),
                memory_active=np.full(2, 0.3),
            )
        return Readings(series, dict.fromkeys(series, CARD), SCRAPE_S)


def main(gpus: int, jobs_a_day: int, hours: float) -> None:
    """Watch a made-up site, and print what it cost."""
    site, watcher = Site(gpus, jobs_a_day), Watcher()
    looks, spent_s = int(hours * 3600 / EVERY_S), 0.0
    with tempfile.TemporaryDirectory() as folder:
        ledger = WatchLedger(Path(folder) / "watch.db")
        keeper = Keeper(watcher, ledger)
        half = (0, 0)
        for look in range(1, looks + 1):
            now_s = look * EVERY_S
            site.advance(now_s)
            readings, answer = site.readings(now_s), site.squeue()
            began_s = time.process_time()
            watcher.take(readings, read_jobs(answer, now_s))
            keeper.settle(now_s, all_of_it=False)
            spent_s += time.process_time() - began_s
            if look == looks // 2:
                half = ledger.size(), site.number
        grown, jobs = ledger.size() - half[0], site.number - half[1]
        ledger.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    running = len(site.running)
    print(f"{gpus} GPUs, {jobs_a_day} jobs a day, {hours:g} h: {looks} looks, {site.number} jobs, {running} running")
    print(
        f"CPU: {100 * spent_s / (looks * EVERY_S):.2f} % of a core ({1e3 * spent_s / looks:.0f} ms a look); target 2 %"
    )
    print(f"memory: {memory:.0f} MiB with the made-up site; target 200")
    per_job = grown / max(jobs, 1)  # with what nobody held
    print(f"file: {per_job:.0f} bytes a job, so about {per_job * jobs_a_day * 30 / 1e6:.0f} MB a month; target 50")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(
        int(words[0]) if words else 1000, int(words[1]) if words[1:] else 10_000, float(words[2]) if words[2:] else 1.0
    )
