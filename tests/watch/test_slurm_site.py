"""A real Slurm on several hosts: its jobs, the GPUs it gives them, and what these drew."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from powerflow.testing.hosts import Hosts
from powerflow.watch.owners import GpuAddress
from powerflow.watch.readings import Card, Readings
from powerflow.watch.series import series_of
from powerflow.watch.sources.slurm import COMMAND, read_jobs
from powerflow.watch.use import JobUse
from powerflow.watch.watcher import Watcher
from tests.live.slurm_on_hosts import GPUS, SlurmOnHosts, folder, why_not
from tests.slow import slow

pytestmark = [slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]

#: Power of a GPU that is idle, and of one on which a job computes, watts.
IDLE_W, BUSY_W = 60.0, 400.0
#: A job loads its data for a while, computes, and ends.
SCRIPT = """#!/bin/sh
sleep 1
touch /run/home/busy.$SLURM_JOB_ID.$(hostname).${CUDA_VISIBLE_DEVICES:-$SLURM_STEP_GPUS}
sleep ${1:-6}
rm -f /run/home/busy.$SLURM_JOB_ID.*
"""


class Devices:
    """GPUs whose power follows what the jobs' own scripts say, read fifty times a second."""

    def __init__(self, home: Path, nodes: list[str]) -> None:
        self.home = home
        self.energy_j = {GpuAddress(node, number): 0.0 for node in nodes for number in range(GPUS)}
        self.rows: dict[GpuAddress, list[tuple[float, float, float]]] = {gpu: [] for gpu in self.energy_j}
        #: What the GPUs drew for each job above their idle power, by the number of Slurm, joules.
        self.above_idle_j: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        last_s, read_s = time.time(), 0.0
        while not self._stop.wait(0.02):
            now_s = time.time()
            busy = {}
            for path in self.home.glob("busy.*"):
                _, job, node, numbers = path.name.split(".")
                busy.update({GpuAddress(node, int(number)): job for number in numbers.split(",")})
            for gpu in self.energy_j:
                power_w = BUSY_W if gpu in busy else IDLE_W
                self.energy_j[gpu] += power_w * (now_s - last_s)
                if gpu in busy:
                    more = (BUSY_W - IDLE_W) * (now_s - last_s)
                    self.above_idle_j[busy[gpu]] = self.above_idle_j.get(busy[gpu], 0.0) + more
                if now_s - read_s >= 0.5:
                    self.rows[gpu].append((now_s, self.energy_j[gpu], power_w))
            read_s = now_s if now_s - read_s >= 0.5 else read_s
            last_s = now_s

    def read(self, since_s: float) -> Readings:
        series = {}
        for gpu, rows in self.rows.items():
            new = [row for row in list(rows) if row[0] > since_s]
            if new:
                time_s, energy_j, power_w = np.array(new).T
                series[gpu] = series_of(time_s, energy_j=energy_j, power_w=power_w)
        return Readings(series, dict.fromkeys(series, Card("", "NVIDIA A100-SXM4-80GB", 400.0)))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def slurm() -> Iterator[SlurmOnHosts]:
    with folder() as home:
        with Hosts(2, Path(home) / "bed") as hosts:
            slurm = SlurmOnHosts(hosts, Path(home))
            yield slurm
        slurm.close()


def test_jobs_arrays_requeues_and_lost_nodes(slurm: SlurmOnHosts) -> None:
    home = slurm.home / "user"
    (home / "job.sh").write_text(SCRIPT)
    nodes = [slurm.hosts.name(i) for i in slurm.hosts.numbers()]
    devices, watcher = Devices(home, nodes), Watcher()
    found: dict[str, JobUse] = {}
    ends: dict[str, float | None] = {}
    ids: dict[str, str] = {}
    seen_s = 0.0

    def look(*, all_of_it: bool = False) -> None:
        nonlocal seen_s
        readings = devices.read(seen_s)
        seen_s = max((float(each.time_s[-1]) for each in readings.series.values()), default=seen_s)
        watcher.take(readings, read_jobs(slurm.root(*COMMAND), time.time()))
        for key, (job, use) in watcher.settle(time.time(), all_of_it=all_of_it).jobs.items():
            found[key], ends[key], ids[key] = use, job.end_s, job.id

    def submit(*words: str) -> str:
        return slurm.user(1, "sbatch", "--parsable", "--output=/dev/null", *words).strip()

    try:
        look()
        single = submit("--gres=gpu:2", "--comment=powerflow:off", "job.sh")
        array = submit("--array=1-2", "--gres=gpu:1", "job.sh", "4")
        held = submit("--hold", "--gres=gpu:1", "job.sh")
        wide = submit("--nodes=2", "--gpus-per-node=1", "--exclusive", "job.sh", "3")
        requeued = submit("--gres=gpu:1", "--requeue", "--nice=1000", "job.sh", "60")
        deadline_s = time.monotonic() + 90.0
        restarted = False
        while time.monotonic() < deadline_s:
            look()
            running = slurm.root("squeue", "--noheader", "--format=%i %T").splitlines()
            if f"{requeued} RUNNING" in running and not restarted:
                time.sleep(3.0)
                look()
                slurm.root("scontrol", "requeue", requeued)
                restarted = True
            if restarted and not any(line.startswith((f"{single} ", f"{array}_", f"{wide} ")) for line in running):
                break
            time.sleep(1.0)
        assert restarted
        slurm.root("scancel", requeued, held)
        time.sleep(2.0)
        look()
        time.sleep(3.0)
        look(all_of_it=True)
    finally:
        devices.close()
    by_id = {ids[key]: (found[key], ends[key]) for key in found}
    starts_of_requeued = [key for key in found if key.startswith(f"slurm:{requeued}@")]
    assert held not in by_id
    assert {single, f"{array}_1", f"{array}_2"} <= by_id.keys()
    assert len(starts_of_requeued) >= 1
    for number in (single, array):  # of the array, the last task has the number of the whole
        use = by_id[number][0] if number in by_id else by_id[f"{array}_2"][0]
        truth = devices.above_idle_j.get(number, 0.0) + IDLE_W * use.gpu_s
        assert truth > 0
        margin = 2 * IDLE_W  # how long it held its GPUs is itself known to a second or so
        assert use.energy_j == pytest.approx(truth, rel=0.03)
        assert use.low_j - margin <= truth <= use.high_j + margin
    total = sum(use.energy_j for use in found.values())
    assert total <= sum(devices.energy_j.values())
