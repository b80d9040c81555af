"""What being there costs: an idle controller, and one with 1,000 queued and 200 running jobs.

    python -m benchmarks.live

Ranks are virtual (`powerflow.testing.memory_engine`), GPUs emulated; store, loop, service and HTTP are the real ones.
"""

from __future__ import annotations

import getpass
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

IDLE_S = 30.0
QUEUED, RUNNING = 1000, 200
REQUESTS = 200


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as directory:
        idle(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        loaded(Path(directory))


def idle(directory: Path) -> None:
    """A controller of eight emulated GPUs and no job: its share of a core, and its memory.

    Then its memory again when jobs have run: a few, a few that train, whose costs are learnt, and a hundred at once,
    which is when decisions are compiled.
    """
    from powerflow.demo.jobs import arrivals
    from powerflow.engine.local import LocalEngine

    state = directory / "state"
    command = [sys.executable, "-m", "powerflow", "serve", "--state-dir", str(state), "--emulate", "2x4:A100"]
    serve = subprocess.Popen(
        [*command, "--port", "0", "--interval", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert serve.stdout is not None
        serve.stdout.readline()
        time.sleep(5.0)
        process = psutil.Process(serve.pid)
        before, began_s = process.cpu_times(), time.monotonic()
        time.sleep(IDLE_S)
        after, seconds = process.cpu_times(), time.monotonic() - began_s
        share = (after.user + after.system - before.user - before.system) / seconds
        print(f"idle: {share:.2%} of a core, {_memory(process)}")
        url = json.loads((state / "server.json").read_text())["url"]
        with httpx.Client(base_url=f"{url}/api/v1") as http:
            http.headers["Authorization"] = f"Bearer {(state / 'token').read_text().strip()}"
            sleeps = [{"run": "sleep 1", "gpus": "1", "rescale": "none"}] * 100
            trains = [
                each.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True) for each in arrivals()[:3]
            ]
            for what, specs in (("8 jobs", sleeps[:8]), ("3 that train", trains), ("100 at once", sleeps)):
                for spec in specs:
                    http.post("/jobs", json=spec).raise_for_status()
                while (top := http.get("/top").json())["running"] + top["queued"]:
                    time.sleep(1.0)
                time.sleep(5.0)
                print(f"idle again after {what}: {_memory(process)}")
    finally:
        serve.terminate()
        serve.communicate()
        LocalEngine(state / "engine").shutdown(kill=True)


def _memory(process: psutil.Process) -> str:
    """Resident memory, and how much of it are unchanged pages of files, which the kernel can take back at any time."""
    clean = sum(part.private_clean + part.shared_clean for part in process.memory_maps())
    return f"RSS {process.memory_info().rss / 2**20:.0f} MiB, {clean / 2**20:.0f} of them clean pages of files"


def loaded(directory: Path) -> None:
    """1,200 jobs on 256 GPUs: the loop's turns, its decisions, and the API meanwhile."""
    import structlog

    from powerflow.agent.devices import NodeDevices
    from powerflow.agent.metered_engine import MeteredEngine
    from powerflow.cluster.spec import parse_cluster
    from powerflow.cost.catalogue import axes_for, gpu_type
    from powerflow.device.emulated.gpu import create
    from powerflow.gangs.manager import Gangs
    from powerflow.live.cluster_service import ClusterService
    from powerflow.live.controller import Controller
    from powerflow.live.governance.budgets import LiveBudgets
    from powerflow.live.governance.cap_record import CapRecords
    from powerflow.live.governance.caps import Caps
    from powerflow.live.governance.savings import SavingsEstimate
    from powerflow.live.governance.shares import Shares
    from powerflow.live.governance.signals import Signals
    from powerflow.live.governance.stages import Stages
    from powerflow.live.governance.step import GovernanceParts
    from powerflow.live.gpus.gpus import ClusterGpus
    from powerflow.live.jobs.cost_learning import CostLearning
    from powerflow.live.jobs.decision_log import DecisionLog
    from powerflow.policy import registry
    from powerflow.scheduler.rules.compose import with_rules
    from powerflow.scheduler.scheduler import Scheduler
    from powerflow.service.app import build_app
    from powerflow.service.server import ApiServer
    from powerflow.store.leader_lease import own_name
    from powerflow.store.store import Store
    from powerflow.testing.direct_devices import DirectDevices
    from powerflow.testing.memory_engine import MemoryCluster, MemoryEngine, Part

    spec = parse_cluster("32x8:A100")
    gpus = create(directory / "device" / "emulated", spec.nodes)
    axes = {name: axes_for(name, 8, [1, 2, 4, 8, 16, 32]) for name in spec.pools()}
    engine = MemoryEngine(MemoryCluster({node.name: node.gpus for node in spec.nodes}, play=lambda spec: Part()))
    store = Store(f"sqlite:///{directory / 'store.db'}")
    devices = NodeDevices(directory / "device", gpus, machine="bench")
    metered = MeteredEngine(engine, devices)
    log = structlog.wrap_logger(structlog.PrintLogger(io.StringIO()))
    power = ClusterGpus(DirectDevices(devices, turns=True), store)
    policy = with_rules(registry.load("prices"), interval_s=2.0)  # as `powerflow serve` does
    learning, signals = CostLearning(axes), Signals(store)
    scheduler = Scheduler(spec, axes, {"A100": gpu_type("A100").idle_w}, policy, interval_s=2.0)
    decision_log = DecisionLog(store, learning, scheduler)
    stages = Stages(store, lambda: decision_log.calibrations)
    governance = GovernanceParts(
        Caps(store, scheduler.nodes, power, CapRecords(directory / "caps")),
        Shares(store),
        signals,
        LiveBudgets(store, spec, lambda: power.totals_j()[0], signals, learning, axes),
        stages,
        SavingsEstimate(store, spec, axes, learning, stages, None, lambda: 0.0),
        decision_log,
    )
    controller = Controller(
        scheduler,
        store,
        metered,
        Gangs(metered, directory, lambda *_: {}),
        power,
        learning,
        governance=governance,
        owner=own_name(),
        log=log,
    )
    turns_s: list[float] = []
    cycles_s: list[float] = []
    controller.start()
    user = getpass.getuser()
    (directory / "jobs.txt").touch()
    service = ClusterService(controller)
    app = build_app(service, _tokens(directory, user), version="0", log=log, hosts=frozenset({"127.0.0.1"}))
    stop = threading.Event()

    def turn() -> None:
        while not stop.is_set():
            began_s = time.perf_counter()
            decided_s = controller.scheduler._decided_s
            wait_s = controller.turn()
            turns_s.append(time.perf_counter() - began_s)
            if controller.scheduler._decided_s != decided_s:
                cycles_s.append(turns_s[-1])
            stop.wait(wait_s)

    with ApiServer(app) as server, httpx.Client(base_url=f"{server.url}/api/v1", verify=False) as http:
        http.headers["Authorization"] = f"Bearer {(directory / 'token').read_text()}"
        for number in range(RUNNING):
            _submit(http, number, "1")
        controller.turn()
        for number in range(QUEUED):
            _submit(http, number, "8")  # what is left, 56 GPUs, is filled by the first of them
        loop = threading.Thread(target=turn)
        loop.start()
        try:
            time.sleep(8.0)
            top = http.get("/top").json()
            print(f"loaded: {top['running']} running, {top['queued']} queued, {top['gpus_busy']} GPUs busy")
            turns_s.clear()
            cycles_s.clear()
            _ask("GET /jobs", lambda: http.get("/jobs"))
            _ask("GET /top", lambda: http.get("/top"))
            _ask("POST /jobs", lambda: _submit(http, 0, "8"))
        finally:
            stop.set()
            loop.join()
    print(f"turns: median {_share(turns_s, 0.5):.0f} ms, p99 {_share(turns_s, 0.99):.0f} ms ({len(turns_s)})")
    print(f"cycles with a decision: median {_share(cycles_s, 0.5):.0f} ms, max {_share(cycles_s, 1.0):.0f} ms")
    devices.close()
    store.close()


def _tokens(directory: Path, user: str) -> Any:
    from powerflow.api.records import Role
    from powerflow.service.tokens import Tokens, create_token

    (directory / "token").write_text(create_token(directory / "tokens.json", user, Role.OPERATOR))
    return Tokens.load(directory / "tokens.json")


def _submit(http: httpx.Client, number: int, gpus: str) -> httpx.Response:
    spec = {"run": "sleep 1000", "name": f"job-{number}", "gpus": gpus, "work": {"iterations": 1e6}}
    return http.post("/jobs", json=spec)


def _ask(what: str, ask: Callable[[], httpx.Response]) -> None:
    times = []
    for _ in range(REQUESTS):
        began_s = time.perf_counter()
        answer = ask()
        times.append(time.perf_counter() - began_s)
        answer.raise_for_status()
    print(f"{what}: median {_share(times, 0.5):.0f} ms, p99 {_share(times, 0.99):.0f} ms")


def _share(times: list[float], share: float) -> float:
    """A quantile, in milliseconds."""
    ordered = sorted(times)
    return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


if __name__ == "__main__":
    main()
