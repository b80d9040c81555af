"""What a Prometheus has kept of a made-up site: the energy counters of its GPUs, and who held them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from powerflow.simulate.poc.matching import MeasuredRun
from powerflow.trace.record import Trace
from powerflow.watch.sources.prometheus_api import Answer
from tests.poc.made_up_site import IDLE_W

#: Seconds between two scrapes: the start of a job is known to half of it.
SCRAPE_S = 120.0
NODES, GPUS = 2, 8


@dataclass(frozen=True)
class Held:
    """A time in which a job held a GPU, and what the GPU drew then."""

    job: str
    start_s: float
    end_s: float
    power_w: float


class StoredSite:
    """The made-up site in a Prometheus, with or without the label that names the job on a GPU.

    Attributes:
        trace: The log, with the nodes of each job.
        name: As in `SampleStore`.
        asked: The requests: begin and end, Unix seconds.
    """

    def __init__(self, trace: Trace, runs: Sequence[MeasuredRun], *, labels: bool) -> None:
        self.name = "Prometheus"
        self.asked: list[tuple[float, float]] = []
        self._labels = labels
        self._held: dict[tuple[int, int], list[Held]] = {(n, g): [] for n in range(NODES) for g in range(GPUS)}
        jobs = {job.id: job for job in trace.jobs}
        nodes = {}
        for run in sorted(runs, key=lambda run: run.start_s):
            job = jobs[run.id]
            start_s = job.submit_s + (job.wait_s or 0.0)
            free = [gpu for gpu, held in self._held.items() if not held or held[-1].end_s <= start_s + 1e-6]
            on_node = [sum(node == n for node, _ in free) for n in range(NODES)]
            fullest = sorted(range(NODES), key=lambda n: (on_node[n] < job.gpus, on_node[n]))
            mine = sorted(free, key=lambda gpu: (fullest.index(gpu[0]), gpu[1]))[: job.gpus]
            for gpu in mine:
                self._held[gpu].append(Held(job.id, start_s, start_s + job.duration_s, run.energy_j / run.gpu_s))
            nodes[job.id] = ",".join(f"n{n + 1}" for n in sorted({n for n, _ in mine}))
        self.trace = replace(trace, jobs=tuple(replace(job, nodes=nodes.get(job.id, "")) for job in trace.jobs))
        self._edges = {gpu: _counter(held, trace.jobs[0].submit_s - 86400) for gpu, held in self._held.items()}

    def ask(self, query: str, at_s: float) -> Answer:
        """Return the samples that a range selector finds, as Prometheus does."""
        span = re.search(r"\[(\d+)ms\]", query)
        assert span is not None
        assert "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" in query
        since_s = at_s - int(span[1]) / 1000
        self.asked.append((since_s, at_s))
        time_s = np.arange(np.ceil(since_s / SCRAPE_S), np.floor(at_s / SCRAPE_S) + 1) * SCRAPE_S
        series = []
        for (node, gpu), held in self._held.items():
            counter_mj = 1000 * np.interp(time_s, *self._edges[node, gpu])
            owner = np.full(len(time_s), "", object)
            for each in held if self._labels else ():
                owner[(time_s >= each.start_s) & (time_s < each.end_s)] = each.job
            for job in dict.fromkeys(owner):
                labels = {
                    "__name__": "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
                    "Hostname": f"n{node + 1}",
                    "gpu": f"{gpu}",
                    "UUID": f"GPU-{node}-{gpu}",
                    "modelName": "NVIDIA A100-SXM4-80GB",
                } | ({"hpc_job": job} if job else {})
                at = owner == job
                values = [[when, f"{mj:.0f}"] for when, mj in zip(time_s[at].tolist(), counter_mj[at], strict=True)]
                series.append({"metric": labels, "values": values})
        return Answer(series, (), 0.0)


def _counter(held: Sequence[Held], begin_s: float) -> tuple[list[float], list[float]]:
    """Return moments and the counter of a GPU at them, joules."""
    times, joules = [begin_s], [0.0]
    for each in held:
        for until_s, watts in ((each.start_s, IDLE_W), (each.end_s, each.power_w)):
            joules.append(joules[-1] + watts * (until_s - times[-1]))
            times.append(until_s)
    joules.append(joules[-1] + IDLE_W * 1e6)
    times.append(times[-1] + 1e6)
    return times, joules


@contextmanager
def served(site: StoredSite) -> Iterator[str]:
    """Serve a site as Prometheus' HTTP API at a port of the loopback; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            found = site.ask(asked["query"][0], float(asked["time"][0]))
            data: dict[str, Any] = {"resultType": "matrix", "result": found.series}
            content = json.dumps({"status": "success", "data": data}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
