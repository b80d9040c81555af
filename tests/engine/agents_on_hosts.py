"""Agents on the hosts of a test bed, and engines on this machine that they dial."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.listen import AgentListener
from powerflow.osutil.files import read_json
from powerflow.testing.bed import Bed
from powerflow.testing.hosts import Hosts

#: Engine objects that can be open at the same time; the oldest is closed for one more.
ENGINES = 5


class Forgetful:
    """A `KeptState` that keeps nothing."""

    def load(self) -> dict[str, dict[str, Any]]:
        return {}

    def put(self, key: str, value: dict[str, Any] | None) -> None:
        pass


class AgentsOnHosts:
    """One agent on each host of a bed, but for the last, which is spare; the node of host i is named ``host-i``."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        self.hosts, self.home = hosts, home
        self._numbers = {f"host-{i}": i for i in hosts.numbers()}
        self._cut: set[int] = set()
        self._agents: dict[int, subprocess.Popen[bytes]] = {}
        self._opened: list[tuple[ClusterEngine, AgentListener]] = []
        with contextlib.ExitStack() as taken:
            sockets = [taken.enter_context(socket.create_server((hosts.address(0), 0))) for _ in range(ENGINES)]
            self._all_ports = [each.getsockname()[1] for each in sockets]
        self._ports = list(self._all_ports)
        first = self.place(wait=False)
        self.token = first.token.text()
        for node in list(self._numbers)[:-1]:
            self.start_agent(node)
        self._await(first)

    def place(self, *, wait: bool = True) -> ClusterEngine:
        """Return a new engine object of one controller."""
        if not self._ports:
            oldest, listener = self._opened.pop(0)
            listener.close()
            oldest.close()
            self._ports.append(listener.port)
        for older, _ in self._opened:  # one controller at a time keeps what it knows: the newest
            older._tables.kept = Forgetful()
        engine = ClusterEngine(self.home / "controller", self.home / "mail", term=1)
        self._opened.append((engine, AgentListener(engine, self.hosts.address(0), self._ports.pop())))
        if wait:
            self._await(engine)
        return engine

    def _await(self, engine: ClusterEngine) -> None:
        """Wait until all agents that can reach this machine have joined."""
        deadline_s = time.monotonic() + 60.0
        while len([node for node in engine.nodes() if node.up]) < len(self._reachable):
            assert time.monotonic() < deadline_s, (engine.nodes(), engine.notices())
            engine.wait(0.1)

    @property
    def _reachable(self) -> list[int]:
        return [i for i in self._agents if self.hosts.running(i) and i not in self._cut]

    def number(self, node: str) -> int:
        return self._numbers[node]

    def cut(self, node: str) -> None:
        self._cut.add(self.number(node))
        self.hosts.cut(self.number(node))

    def mend(self, node: str) -> None:
        self._cut.discard(self.number(node))
        self.hosts.mend(self.number(node))

    def crash(self, node: str) -> None:
        self.hosts.crash(self.number(node))
        self._agents[self.number(node)].wait()

    def boot(self, node: str) -> None:
        self.hosts.boot(self.number(node))
        self.start_agent(node)

    def start_agent(self, node: str) -> None:
        i = self.number(node)
        disk = self.hosts.disk(i)
        (disk / "join-token").write_text(self.token)
        words = [
            sys.executable,
            "-c",
            "from powerflow.cli.main import run; run()",
            "agent",
            "--token-file",
            str(disk / "join-token"),
        ]
        words += ["--state-dir", str(disk / "agent"), "--name", node, "--emulate", "1x8:A100"]
        for port in self._all_ports:
            words += ["--controller", f"{self.hosts.address(0)}:{port}"]
        log = os.open(self.home / f"{node}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._agents[i] = self.hosts.run(
            i, words, {"POWERFLOW_PRELOAD": ""}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        os.close(log)

    def kill_agent(self, node: str) -> None:
        self._agents[self.number(node)].kill()
        self._agents[self.number(node)].wait()

    def fence_of(self, node: str, gang: str) -> int:
        found = read_json(self.hosts.disk(self.number(node)) / "agent" / "ranks" / "fences" / gang)
        return 0 if found is None else int(found["epoch"])

    def add(self, node: str) -> None:
        self._numbers[node] = self.hosts.count
        self.start_agent(node)

    def leave(self, node: str) -> None:
        self._opened[-1][0].remove(node)
        assert self._agents.pop(self.number(node)).wait() == 0

    def bed(self) -> Bed:
        """Return the handles for conformance tests."""
        return Bed(
            self.place,
            processes=True,
            user="nobody",
            cut=self.cut,
            mend=self.mend,
            crash=self.crash,
            boot=self.boot,
            kill_agent=self.kill_agent,
            start_agent=self.start_agent,
            fence_of=self.fence_of,
            add=self.add,
            leave=self.leave,
        )

    def close(self) -> None:
        for engine, listener in self._opened:
            listener.close()
            engine.close()
