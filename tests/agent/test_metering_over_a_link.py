"""A real agent, its controller at the other end of a link, and SIGKILL: joules and clocks are as they should be."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.cluster.spec import Node
from powerflow.device.emulated.gpu import EmulatedGpu, create
from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.listen import keep_connected
from powerflow.engine.local import LocalEngine
from powerflow.engine.protocol import RankName, RankSpec, RankState
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.store.store import Store
from tests.agent.here import run_here
from tests.device.cards import end_watchdog, wait_for
from tests.live.joules import joules
from tests.processes import CONTEXT

NODES = [Node(0, "n1", "A100", 2, "rack-0")]
LEASE_S = 2.0
#: By then, on a busy machine; a lease as it is by default would last for longer.
SOON_S = 15.0

#: Draws 300 W on the emulated GPU for some seconds, as a pacer would.
DRAWS = """
import sys, time
from powerflow.device.emulated.gpu import EmulatedGpu, own_identity
pid, birth = own_identity()
gpu = EmulatedGpu(sys.argv[1])
gpu.draw(300.0, pid=pid, birth=birth)
time.sleep(float(sys.argv[2]))
gpu.rest(pid=pid, birth=birth)
"""


class Site:
    """A controller and an agent, each of which may die."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = Store(f"sqlite:///{home / 'store.db'}")
        self.terms = 0
        self.engine: ClusterEngine | None = None
        self.agent: BaseProcess | None = None
        self.gpus = create(home / "agent" / "devices" / "emulated", NODES)

    def lead(self) -> None:
        """Another controller."""
        self.terms += 1
        self.engine = ClusterEngine(self.home / "controller", self.home / "mail", term=self.terms)
        if self.agent is None:
            self.start_agent()
        asyncio.run_coroutine_threadsafe(
            keep_connected(self.engine, self.home / "agent" / "agent.sock", lambda: None), self.engine.loop
        )
        self.until_up()
        self.power = ClusterGpus(self.engine.devices, self.store)
        self.power.start(time.time())

    def start_agent(self) -> None:
        assert self.engine is not None
        args = (self.home / "agent", self.engine.token, NODES, LEASE_S)
        self.agent = CONTEXT.Process(target=run_here, args=args, daemon=True)
        self.agent.start()

    def kill_agent(self) -> None:
        assert self.agent is not None
        self.agent.kill()
        self.agent.join()

    def until_up(self) -> None:
        assert self.engine is not None
        wait_for(lambda: any(node.up for node in self.engine.nodes()) if self.engine else False, "the agent")

    def turn(self) -> None:
        if self.power.due():
            self.power.settle(time.time())
            self.power.save(self.store)

    def stand_still(self) -> tuple[float, float]:
        """What the store and the counters say, once the store has something."""
        found: list[tuple[float, float]] = []

        def taken() -> bool:
            self.turn()
            now = joules(self.store, self.home / "agent" / "devices", "here")
            found.extend([now] if now is not None else [])
            return bool(found)

        wait_for(taken, "a report")
        return found[0]

    def state_of(self, name: RankName) -> RankState:
        assert self.engine is not None
        return next(status.state for status in self.engine.ranks() if status.name == name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        site.lead()
        yield site
    finally:
        if site.engine is not None:
            site.engine.close()
        site.store.close()
        if site.agent is not None and site.agent.pid is not None and site.agent.is_alive():
            os.kill(site.agent.pid, signal.SIGTERM)
            site.agent.join()
        LocalEngine(tmp_path / "agent" / "ranks").shutdown(kill=True)
        end_watchdog(tmp_path / "agent" / "devices")


def test_the_joules_of_a_rank_are_exact_whoever_is_killed_meanwhile(site: Site) -> None:
    assert site.engine is not None
    start = site.stand_still()
    job = site.store.submit(JobSpec.model_validate({"run": "true", "gpus": 1}), "ada", time.time())[0].id
    name = RankName(job, 1, 0)
    command = (sys.executable, "-c", DRAWS, str(site.gpus[1].path), "3")
    site.engine.launch(RankSpec(name, "n1", command, directory="/", gpus=(1,)))
    wait_for(lambda: site.state_of(name) is RankState.RUNNING and site.gpus[1].read().power_w == 300.0, "the rank")
    site.turn()
    site.kill_agent()
    time.sleep(0.3)
    site.engine.close()  # and the controller, too
    site.start_agent()
    site.lead()
    wait_for(lambda: site.state_of(name) is RankState.EXITED, "its end")
    time.sleep(0.1)

    def charged() -> bool:
        site.turn()
        rows = site.power._machines.by_name["here"].ledger.state()["rows"].values()
        return any(final for _, _, final in rows) or len(rows) == 2

    wait_for(charged, "its last joules")
    end = site.stand_still()
    assert end[0] - start[0] == pytest.approx(end[1] - start[1], abs=0.01), "metered is what the counters say"
    metered_j, jobs_j, idle_j = site.store.charges.totals()
    assert jobs_j + idle_j == pytest.approx(metered_j)
    stored = site.store.job(job)
    assert stored.energy_j == pytest.approx(jobs_j)
    drew_j = 300.0 * 3.0 + site.gpus[1].idle_w * (stored.gpu_s - 3.0)
    assert stored.gpu_s >= 3.0
    assert stored.energy_j >= drew_j - 1.0
    other = site.gpus[1].read().energy_j - stored.energy_j
    assert other >= 0.0, "nobody is charged twice"


def locked(gpus: list[EmulatedGpu]) -> list[float | None]:
    return [gpu.read().locked_mhz for gpu in gpus]


def test_clocks_are_given_back_by_the_machine_when_its_controller_is_silent(site: Site) -> None:
    assert site.engine is not None

    def clocked() -> bool:
        site.power.tune(time.time(), {("n1", 0): 705.0})
        return locked(site.gpus) == [705.0, None]

    wait_for(clocked, "the clock")
    site.engine.close()
    silent_s = time.monotonic()
    wait_for(lambda: locked(site.gpus) == [None, None], "its own clock")
    assert time.monotonic() - silent_s < SOON_S
    site.lead()
    wait_for(clocked, "the clock again")
    site.kill_agent()
    silent_s = time.monotonic()
    wait_for(lambda: locked(site.gpus) == [None, None], "its own clock, by the watchdog")
    assert time.monotonic() - silent_s < SOON_S
