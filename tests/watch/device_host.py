"""The GPUs of a test host, as a program: fake NVML whose power follows the jobs' processes, and an exporter of it.

Usage: ``python -m tests.watch.device_host HOME STATE GPUS PORT``. A process of a job says in a file of ``HOME/gpus``
which GPUs it holds: pid, job, restart, numbers of the GPUs, watts, and the moment from which it computes. While the
process lives and is not stopped, these GPUs draw its watts. The truth, what the GPUs drew in the hands of each job, is
kept in ``HOME/truth.HOST.json``. The exporter reads the GPUs through nvidia-ml-py, and writes dcgm-exporter's names.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.device.fake_nvml import Machine

#: Power of a GPU on which nothing computes, watts.
IDLE_W = 60.0
_TICK_S = 0.05
_METRICS = ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_GPU_UTIL")


@dataclass(frozen=True)
class Work:
    """What a process of a job says of itself: see the module."""

    pid: int
    job: str
    restart: int
    gpus: tuple[int, ...]
    power_w: float
    busy_from_s: float

    def stopped(self) -> bool | None:
        """Return whether the process is stopped or frozen; None if it is gone."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return None
        return None if state in "ZX" else state in "TtD"


class Devices:
    """The GPUs: their power follows the processes."""

    def __init__(self, home: Path, state: Path, count: int) -> None:
        self.home, self.host = home, socket.gethostname()
        state.mkdir(exist_ok=True)
        self.machine = Machine(state, state)
        self.machine.all.count = count
        for number in range(count):
            gpu = self.machine.gpu[number]
            gpu.uuid = f"GPU-{self.host}-{number}".encode()
            gpu.name = b"NVIDIA A100-SXM4-80GB"
            gpu.power_w, gpu.energy_mj, gpu.energy_at_s = IDLE_W, 1e8, time.monotonic()
        self.count = count
        self.energy_j = [1e5] * count
        #: Joules, and seconds, of each job, restart and GPU: ``17 0 3``.
        self.truth: dict[str, tuple[float, float]] = {}
        self._works: dict[str, Work | None] = {}

    def _living(self) -> Iterator[tuple[Work, bool]]:
        """Yield the works of living processes, and whether each computes now."""
        for path in self.home.glob(f"gpus/{self.host}.*"):
            if path.name not in self._works:
                words = path.read_text().split()
                if len(words) < 6:
                    continue
                numbers = tuple(int(number) for number in words[3].split(","))
                self._works[path.name] = Work(
                    int(words[0]), words[1], int(words[2]), numbers, float(words[4]), float(words[5])
                )
            work = self._works[path.name]
            if work is not None and (stopped := work.stopped()) is not None:
                yield work, not stopped and time.time() >= work.busy_from_s
            else:
                self._works[path.name] = None

    def run(self) -> None:
        last_s = time.monotonic()
        for tick in range(sys.maxsize):
            time.sleep(_TICK_S)
            now_s = time.monotonic()
            lasts_s, last_s = now_s - last_s, now_s
            power = [IDLE_W] * self.count
            pids: list[list[int]] = [[] for _ in power]
            living = list(self._living())
            for work, busy in living:
                for number in work.gpus:
                    pids[number].append(work.pid)
                    power[number] = max(power[number], work.power_w * busy)
            for number, watts in enumerate(power):
                self.energy_j[number] += watts * lasts_s
                gpu, more = self.machine.gpu[number], self.machine.more[number]
                gpu.power_w, gpu.energy_mj, gpu.energy_at_s = watts, self.energy_j[number] * 1e3, now_s
                gpu.utilisation = 97 if watts > 1.5 * IDLE_W else 0
                for at in range(len(more.pids)):
                    more.pids[at] = pids[number][at] if at < len(pids[number]) else 0
            for work, _ in living:
                for number in work.gpus:
                    key = f"{work.job} {work.restart} {number}"
                    joules, seconds = self.truth.get(key, (0.0, 0.0))
                    self.truth[key] = joules + power[number] * lasts_s, seconds + lasts_s
            if tick % 10 == 0:
                path = self.home / f"truth.{self.host}.json"
                path.with_suffix(".new").write_text(json.dumps(self.truth))
                os.replace(path.with_suffix(".new"), path)


def exported(host: str) -> str:
    """Return what dcgm-exporter would write of the GPUs that nvidia-ml-py sees."""
    import pynvml  # type: ignore[import-untyped]

    lines: dict[str, list[str]] = {name: [] for name in _METRICS}
    for number in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
        labels = f'gpu="{number}",UUID="{pynvml.nvmlDeviceGetUUID(gpu)}",device="nvidia{number}"'
        labels += f',modelName="{pynvml.nvmlDeviceGetName(gpu)}",Hostname="{host}"'
        values = (
            pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu),
            pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        )
        for name, value in zip(_METRICS, values, strict=True):
            lines[name].append(f"{name}{{{labels}}} {value}")
    return "".join(f"# TYPE {name} gauge\n" + "\n".join(mine) + "\n" for name, mine in lines.items())


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = exported(socket.gethostname()).encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    import pynvml

    home, state, count, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    (home / "gpus").mkdir(exist_ok=True)
    (home / "gpus").chmod(0o1777)
    devices = Devices(home, state, count)
    pynvml.nvmlInit()
    server = ThreadingHTTPServer(("", port), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    devices.run()


if __name__ == "__main__":
    main()
