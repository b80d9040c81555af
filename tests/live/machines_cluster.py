"""A live cluster whose machines are the hosts of a test bed: controller, agents and API client are real processes.

The controller runs on this machine; each host has an agent and emulated GPUs. This machine also stands for what a site
would have: it starts agents and the controller again, as systemd does, and gives all hosts one shared folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from powerflow.testing.hosts import Hosts

#: Emulated GPUs of each host.
GPUS = "1x8:A100"
PATIENCE_S = 120.0
_POWERFLOW = [sys.executable, "-c", "from powerflow.cli.main import run; run()"]


class MachinesCluster:
    """A controller, and one agent on each host of a bed.

    Args:
        hosts: The bed.
        home: Folder for the controller's state and for what all hosts share.
        options: Further options of ``powerflow serve``.
    """

    def __init__(self, hosts: Hosts, home: Path, options: tuple[str, ...]) -> None:
        self.hosts, self.home, self.options = hosts, home, options
        self.state = home / "state"
        self.shared = home / "shared"
        self.shared.mkdir()
        with socket.socket() as api, socket.create_server((hosts.address(0), 0)) as agents:
            api.bind(("127.0.0.1", 0))
            self.port, self.agents_port = api.getsockname()[1], agents.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api/v1"
        self.http = httpx.Client(verify=False, timeout=5.0)  # plain HTTP: no certificates to load
        self.token = ""
        self._controller: subprocess.Popen[bytes] | None = None
        self._agents: dict[int, subprocess.Popen[bytes]] = {}

    # -- the controller -----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Start the controller."""
        agents = ("--agents", f"{self.hosts.address(0)}:{self.agents_port}")
        words = ["serve", "--state-dir", str(self.state), *agents, "--port", str(self.port), *self.options]
        with (self.home / "controller.log").open("ab") as log:
            self._controller = subprocess.Popen([*_POWERFLOW, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill_controller(self) -> None:
        """Kill the controller with -9."""
        assert self._controller is not None
        assert self._controller.poll() is None, f"the controller ended by itself: {self.log()}"
        self._controller.kill()
        self._controller.wait()

    def end_controller(self) -> None:
        """End the controller in order."""
        assert self._controller is not None
        self._controller.send_signal(signal.SIGTERM)
        assert self._controller.wait(PATIENCE_S) == 0, self.log()

    def log(self, of: str = "controller") -> str:
        """Return the last lines of a log that are no decisions."""
        with contextlib.suppress(OSError):
            lines = (self.home / f"{of}.log").read_text("utf-8", "replace").splitlines()
            return "\n".join([line for line in lines if '"decided"' not in line][-40:])
        return ""

    def is_back(self) -> bool:
        """Return True if the controller answers and its loop turns."""
        with contextlib.suppress(httpx.HTTPError, ValueError, OSError):
            self.token = (self.state / "token").read_text().strip()
            return bool(self.http.get(f"{self.url}/health", timeout=2.0).json()["ok"])
        return False

    def await_controller(self, meanwhile: Callable[[], object] = lambda: None) -> float:
        """Wait until the controller is back; return the seconds. Call ``meanwhile`` again and again."""
        began_s = time.monotonic()
        until(lambda: meanwhile() or self.is_back(), "the controller is back", self.log)
        return time.monotonic() - began_s

    def controller_cpu_s(self) -> float:
        """Return the CPU time that the controller has used, in seconds."""
        assert self._controller is not None
        times = psutil.Process(self._controller.pid).cpu_times()
        return float(times.user + times.system)

    # -- agents -------------------------------------------------------------------------------------------------------

    def node(self, i: int) -> str:
        """Return the node of a host."""
        return f"host-{i}"

    def start_agent(self, i: int) -> None:
        """Start the agent of a host, as systemd would."""
        disk = self.hosts.disk(i)
        token = disk / "join-token"
        if not token.exists():
            made = self.state / "agents" / "join-token"
            until(made.exists, "the join token is made", self.log)
            shutil.copy(made, token)
        words = ["agent", "--controller", f"{self.hosts.address(0)}:{self.agents_port}", "--token-file", str(token)]
        words += ["--state-dir", str(disk / "agent"), "--name", self.node(i), "--emulate", GPUS]
        log = os.open(self.home / f"{self.node(i)}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._agents[i] = self.hosts.run(i, [*_POWERFLOW, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(log)

    def kill_agent(self, i: int) -> None:
        """Kill the agent of a host with -9."""
        assert self._agents[i].poll() is None, f"the agent of host {i} ended by itself: {self.log(self.node(i))}"
        self._agents[i].kill()
        self._agents[i].wait()

    def end_agents(self) -> None:
        """End all agents in order."""
        for agent in self._agents.values():
            agent.send_signal(signal.SIGTERM)
        for i, agent in self._agents.items():
            assert agent.wait(PATIENCE_S) == 0, self.log(self.node(i))

    # -- the API ------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """Return what the API answers to a GET request; None if the controller does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            answer = self.http.get(f"{self.url}{path}", headers=self._authority())
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code == 503, answer.text
        return None

    def post(self, path: str, body: Any = None, key: str = "") -> Any:
        """Return what the API answers to a POST request, repeated until it is answered."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            with contextlib.suppress(httpx.HTTPError):
                more = {"Idempotency-Key": key} if key else {}
                answer = self.http.post(f"{self.url}{path}", json=body, headers={**self._authority(), **more})
                if answer.status_code in (200, 201):
                    return answer.json()
                assert answer.status_code == 503, answer.text
            time.sleep(0.05)
        raise AssertionError(f"POST {path} was not answered; {self.log()}")

    def nodes(self) -> dict[str, str]:
        """Return the state of each node; {} if the controller does not answer."""
        answer = self.get("/nodes")
        return {node["name"]: node["state"] for node in answer["items"]} if answer else {}

    def _authority(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    # -- the whole ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all, and wait until all nodes are up."""
        self.serve()
        for i in self.hosts.numbers():
            self.start_agent(i)
        self.await_controller()
        self.await_nodes()

    def await_nodes(self) -> None:
        """Wait until all nodes answer."""
        wanted = {self.node(i) for i in self.hosts.numbers()}

        def up() -> bool:
            states = self.nodes()
            return wanted <= states.keys() and all(states[node] in ("up", "drained") for node in wanted)

        until(up, "all nodes are up", lambda: f"{self.nodes()} {self.log()}")

    def close(self) -> None:
        """End the controller; the bed ends all that runs on its hosts."""
        self.http.close()
        if self._controller is not None and self._controller.poll() is None:
            self._controller.kill()
            self._controller.wait()


def until(done: Callable[[], Any], what: str, why: Callable[[], Any] = str, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: It does not hold in time.
    """
    until_s = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < until_s, f"not in {patience_s:g} s: {what}; {why()}"
        time.sleep(0.05)
