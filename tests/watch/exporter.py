"""An exporter that speaks as dcgm-exporter does, of GPUs whose true draw is known; and a Prometheus that asks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from tests.watch.site import TrueDraw

#: Debian's package prometheus.
PROMETHEUS = shutil.which("prometheus") if shutil.which("setpriv") else None
_CONFIG = """
global: {{scrape_interval: {every_ms}ms, scrape_timeout: {every_ms}ms}}
scrape_configs:
{jobs}
"""


@dataclass(frozen=True)
class Work:
    """A job on a GPU, and from when until when it held the GPU, in seconds since the exporter's start.

    It is named by its number, or by other labels: ``pod="train-0",namespace="ml"``.
    """

    number: int
    start_s: float
    end_s: float
    labels: str = ""


@dataclass(frozen=True)
class EmulatedGpu:
    """A GPU of the exporter: what it draws, and which jobs hold it."""

    draw: TrueDraw
    works: Sequence[Work]


class Exporter:
    """Serves what dcgm-exporter 4.4 would write of these GPUs, at a port of the loopback.

    Args:
        gpus: The GPUs.
        node: Host name that the metrics tell.
        every_s: How often the GPUs are read, seconds; 0: whenever somebody asks.

    Attributes:
        start_s: The moment at which the GPUs' draw begins, Unix seconds; before, they draw what they draw then.
    """

    def __init__(self, gpus: Sequence[EmulatedGpu], node: str, every_s: float = 0.0) -> None:
        self._gpus, self._node, self._every_s = gpus, node, every_s
        self._born_s, self.start_s = time.time(), float("inf")
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = exporter.text(time.time()).encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def text(self, now_s: float) -> str:
        """Return what the exporter writes at a moment (Unix seconds)."""
        read_s = now_s // self._every_s * self._every_s if self._every_s else now_s
        idle_s, at = min(read_s, self.start_s) - self._born_s, max(read_s - self.start_s, 0.0)
        lines: dict[str, list[str]] = {}
        for number, gpu in enumerate(self._gpus):
            labels = f'gpu="{number}",UUID="GPU-{self._node}-{number}",device="nvidia{number}"'
            labels += f',modelName="NVIDIA A100-SXM4-80GB",Hostname="{self._node}"'
            for work in gpu.works:
                if work.start_s <= at < work.end_s:
                    labels += "," + (work.labels or f'hpc_job="{work.number}"')
            idle_w = float(gpu.draw.power_w[0])
            watts = float(gpu.draw.power_w[min(int(at * 10), len(gpu.draw.power_w) - 1)])
            joules = 1e5 + idle_w * idle_s + float(gpu.draw.counter(np.array([at]))[0])
            values = {
                "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": f"{1000 * joules:.0f}",
                "DCGM_FI_DEV_POWER_USAGE": f"{watts:.3f}",
                "DCGM_FI_DEV_SM_CLOCK": "1410",
                "DCGM_FI_DEV_GPU_UTIL": "97" if watts > 100 else "0",
                "DCGM_FI_PROF_SM_ACTIVE": "0.81" if watts > 100 else "0",
                "DCGM_FI_PROF_DRAM_ACTIVE": "0.42" if watts > 100 else "0",
                "DCGM_FI_DEV_POWER_MGMT_LIMIT": "400",
            }
            for name, value in values.items():
                lines.setdefault(name, []).append(f"{name}{{{labels}}} {value}")
        return "".join(
            f"# HELP {name} As dcgm-exporter has it.\n# TYPE {name} gauge\n" + "\n".join(mine) + "\n"
            for name, mine in lines.items()
        )


@contextlib.contextmanager
def running_prometheus(
    folder: Path, targets: Mapping[str, Sequence[int]], every_ms: int, labels: str = ""
) -> Iterator[str]:
    """Run a Prometheus of its own that scrapes ports of the loopback; yield its address.

    Args:
        folder: An empty folder for its data.
        targets: Ports by the name of the job that scrapes them.
        every_ms: Time between two scrapes, milliseconds.
        labels: Labels that Prometheus gives to all targets, in YAML: ``pod: exporter-1, namespace: monitoring``.
    """
    jobs = [
        f"- {{job_name: {job}, static_configs:"
        f" [{{targets: {[f'127.0.0.1:{port}' for port in ports]}, labels: {{{labels}}}}}]}}"
        for job, ports in targets.items()
    ]
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(every_ms=every_ms, jobs="\n".join(jobs)))
    with prometheus_with(config) as url:
        yield url


@contextlib.contextmanager
def prometheus_with(config: Path) -> Iterator[str]:
    """Run a Prometheus of its own with a configuration, beside which it keeps its data; yield its address."""
    assert PROMETHEUS is not None
    folder = config.parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *("setpriv", "--pdeathsig=KILL", "--"),  # it ends with the tests, however these end
        *(PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error", "--storage.tsdb.retention.time=1h"),
    ]
    with open(folder / "log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _until_ready(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection,
        ):
            connection.request("GET", "/-/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"Prometheus ended with {process.returncode}")


def newest_sample_s(url: str, metric: str) -> float:
    """Return when the oldest of the newest samples of a metric was scraped, Unix seconds; 0 if there is none."""
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)) as connection:
        connection.request("GET", f"/api/v1/query?query=min(timestamp({metric}))")
        result = json.loads(connection.getresponse().read())["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0
