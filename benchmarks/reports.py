"""What it costs a controller to take the GPUs' reports of many machines, and a machine to make one.

    python -m benchmarks.reports [MACHINES]

CPU time of one process. 8 GPUs a machine; each machine reports once a second, and a controller takes four turns in that
time. The reports are as an agent sends them; the store is SQLite.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from powerflow.agent.devices import NodeDevices
from powerflow.api.job_spec import JobSpec
from powerflow.cluster.spec import parse_cluster
from powerflow.device.emulated.gpu import create
from powerflow.device.meter import MeanPower
from powerflow.device.protocol import Reading
from powerflow.engine.devices import Report, gpu_row
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.store.store import Store

GPUS = 8
MACHINES_A_JOB = 4
TURNS = 4
READING = Reading(0.0, 300.0, 1e6, 1410.0, 1410.0, 0.9, power_limit_w=400.0, ecc_errors=0.0)
CLOCK = {"asked_mhz": 1410.0, "holds": True, "strays": False}


class Machines:
    """Machines whose GPUs are all busy: a `DeviceSource`."""

    def __init__(self, count: int) -> None:
        self.names = [f"m{number}" for number in range(count)]
        self.gpus = {name: [_described(name, index) for index in range(GPUS)] for name in self.names}
        self.seconds = dict.fromkeys(self.names, 0)
        self.reports: dict[str, Report] = {}
        for number in range(count):
            self.second(number)

    def second(self, number: int) -> None:
        """One more second on one machine."""
        name, job = self.names[number], number // MACHINES_A_JOB + 1
        self.seconds[name] += 1
        passed = self.seconds[name]
        ranks = [f"{job}.1.{number % MACHINES_A_JOB * GPUS + index}" for index in range(GPUS)]
        power = MeanPower(300.0, 1.0)
        rows = [[100 + i, f"{name}-{i}", ranks[i], 300_000 * passed, float(passed), False, passed] for i in range(GPUS)]
        self.reports[name] = {
            "machine": name,
            "boot": "b",
            "at": str(passed),
            "age_s": 0.1,
            "gpus": {f"{name}-{i}": gpu_row(READING, None, power, (), ranks[i], CLOCK) for i in range(GPUS)},
            "ledger": {"id": name, "version": passed, "acknowledged": passed - 1, "rows": rows},
            "refused": [],
            "notices": [],
            "audit": [],
        }

    def machines(self) -> Sequence[str]:
        """Return all names."""
        return self.names

    def describe(self, machine: str) -> Sequence[Mapping[str, Any]]:
        """Return the GPUs of a machine."""
        return self.gpus[machine]

    def report(self, machine: str) -> Report | None:
        """Return the last report."""
        return self.reports[machine]

    def want(self, machine: str, clocks_mhz: Mapping[str, float]) -> None:
        """Ignore a wish."""

    def acknowledge(self, machine: str, ledger: str, version: int, audit: int) -> None:
        """Ignore it."""


def _described(name: str, index: int) -> dict[str, Any]:
    gpu = {"node": name, "index": index, "uuid": f"{name}-{index}", "gpu_type": "A100", "emulated": False}
    return {**gpu, "clocks_mhz": [], "vendor_name": "A100", "driver_index": index, "card": None}


def cpu_s(act: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    began_s = time.process_time()
    act()
    return time.process_time() - began_s


def controller(count: int, folder: Path) -> None:
    store = Store(f"sqlite:///{folder / 'store.db'}")
    for _ in range(count // MACHINES_A_JOB + 1):
        store.submit(JobSpec.model_validate({"run": "true", "gpus": 1}), "ada", 1.8e9)
    machines = Machines(count)
    gpus = ClusterGpus(machines, store)
    gpus.start(1.8e9)
    turns, saves = [], []
    for turn in range(6 * TURNS):
        for number in range(turn % TURNS, count, TURNS):
            machines.second(number)
        now_s = 1.8e9 + turn / TURNS

        def take(now_s: float = now_s) -> None:
            if gpus.due():
                gpus.settle(now_s)
            gpus.disturbed()
            gpus.jobs_with_news()
            gpus.tune(now_s, dict.fromkeys(gpus.gpus(), 1410.0))

        turns.append(cpu_s(take))
        if turn % (2 * TURNS) == 2 * TURNS - 1:
            saves.append(cpu_s(lambda: gpus.save(store)))
    store.close()
    print(f"{count} machines, {count * GPUS} GPUs")
    print(f"a turn of the controller       {statistics.median(turns) * 1e3:10.1f} ms, four in a second")
    print(f"saving what was taken          {statistics.median(saves) * 1e3:10.1f} ms, every two seconds")


def agent(folder: Path) -> None:
    gpus = create(folder / "device" / "emulated", parse_cluster(f"1x{GPUS}:A100").nodes)
    devices = NodeDevices(folder / "device", gpus)
    for number, gpu in enumerate(gpus):
        devices.began(f"{number}.1.0", [gpu.uuid])
    took_s = []
    for _ in range(10):
        time.sleep(1.0)
        took_s.append(cpu_s(devices.turn) + cpu_s(devices.report))
    devices.close()
    print(f"a turn of an agent with {GPUS} GPUs  {statistics.median(took_s) * 1e3:9.1f} ms, one a second")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        agent(Path(folder))
        controller(int(sys.argv[1]) if len(sys.argv) > 1 else 1250, Path(folder))


if __name__ == "__main__":
    main()
