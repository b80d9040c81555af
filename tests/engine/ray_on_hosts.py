"""A Ray cluster over the hosts of a test bed, and engines on this machine that reach agents through it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.ray.membership import RayAgents, RayMembership
from powerflow.testing.hosts import Hosts
from tests.engine.agents_on_hosts import Forgetful

_HOME = Path(tempfile.mkdtemp(prefix="pfray-"))  # Ray's sockets need a short path
_TOKEN = secrets.token_hex(32)
(_HOME / "token").write_text(_TOKEN)
(_HOME / "token").chmod(0o600)
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=str(_HOME / "token"),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_gcs_rpc_server_reconnect_timeout_s="10",  # after which Ray ends whatever has lost the head
)

_RAY = str(Path(sys.executable).with_name("ray"))
#: A node that says nothing for about 3 s is dead for Ray.
_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 5,
}
_SMALL = ["--object-store-memory", "80000000", "--disable-usage-stats"]
#: Folder of the agents, on the disk of each host.
AGENT = "agent"


class RayOnHosts:
    """The head of a Ray cluster on this machine, and a Ray node on each host."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        self.hosts, self.home = hosts, home
        self._raylets: dict[int, subprocess.Popen[bytes]] = {}
        self._opened: list[tuple[ClusterEngine, RayMembership]] = []
        with socket.create_server((hosts.address(0), 0)) as free:
            self._port = str(free.getsockname()[1])
        self.address = f"{hosts.address(0)}:{self._port}"
        self.start_head()
        for i in hosts.numbers():
            self.start_raylet(i)
        self._await(self.place(wait=False))

    def start_head(self) -> None:
        """Start a head that knows of no earlier one, at the same address."""
        for process in _of_ray(_HOME):
            os.kill(process, signal.SIGKILL)
        here = ["--port", self._port, "--node-ip-address", self.hosts.address(0), "--temp-dir", str(_HOME / "ray")]
        words = [_RAY, "start", "--head", *here, "--num-gpus", "0", "--num-cpus", "1", "--include-dashboard", "false"]
        subprocess.run([*words, *_SMALL, "--system-config", json.dumps(_HEALTH)], check=True, capture_output=True)

    def kill_gcs(self) -> None:
        """Kill the server of the head that knows of all nodes. Nothing starts it again."""
        for process in _of_ray(_HOME):
            with contextlib.suppress(OSError):
                if b"/gcs_server" in Path(f"/proc/{process}/cmdline").read_bytes():
                    os.kill(process, signal.SIGKILL)

    def place(self, *, wait: bool = True) -> ClusterEngine:
        """Return a new engine object of one controller."""
        engine = ClusterEngine(self.home / "controller", self.home / "mail", term=1)
        for older, membership in self._opened:  # one controller at a time keeps what it knows: the newest
            older._tables.kept = Forgetful()
            if (older, membership) in self._opened[:-3] and not membership.closed:
                membership.close()
                older.close()
        agents = RayAgents(f"$PF_DISK/{AGENT}", ("--emulate", "1x8:A100"))
        self._opened.append((engine, RayMembership(engine, agents, self.address)))
        if wait:
            self._await(engine)
        return engine

    def _await(self, engine: ClusterEngine) -> None:
        """Wait until the agents of all nodes that can reach this machine have joined."""
        deadline_s = time.monotonic() + 120.0
        while len([node for node in engine.nodes() if node.up]) < len(self._reachable):
            assert time.monotonic() < deadline_s, (engine.nodes(), engine.notices())
            engine.wait(0.1)

    @property
    def _reachable(self) -> list[int]:
        return [i for i in self._raylets if self.hosts.running(i) and i not in self._cut]

    _cut: frozenset[int] = frozenset()

    def number(self, node: str) -> int:
        return next(i for i in self.hosts.numbers() if self.hosts.name(i) == node)

    def start_raylet(self, i: int) -> None:
        token = self.hosts.disk(i) / "ray-token"
        if not token.exists():
            token.write_text(_TOKEN)
            token.chmod(0o600)
        # a raylet that Ray has called dead ends itself: a service manager starts it again
        again = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "sh"]
        words = [
            *again,
            _RAY,
            "start",
            "--address",
            self.address,
            "--node-ip-address",
            self.hosts.address(i),
            "--block",
        ]
        log = os.open(self.home / f"ray-{i}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        env = {"POWERFLOW_PRELOAD": "", "RAY_AUTH_TOKEN_PATH": str(token), "PF_DISK": str(self.hosts.disk(i))}
        more = ["--num-gpus", "8", "--num-cpus", "2", *_SMALL[:2]]
        self._raylets[i] = self.hosts.run(i, [*words, *more], env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(log)

    def cut(self, node: str) -> None:
        self._cut |= {self.number(node)}
        self.hosts.cut(self.number(node))

    def mend(self, node: str) -> None:
        self._cut -= {self.number(node)}
        self.hosts.mend(self.number(node))

    def crash(self, node: str) -> None:
        self.hosts.crash(self.number(node))

    def boot(self, node: str) -> None:
        self.hosts.boot(self.number(node))
        self.start_raylet(self.number(node))

    def kill(self, node: str, words: str) -> None:
        """Kill the processes of a host with these words in their command lines."""
        found = self.hosts.output(self.number(node), ["pgrep", "-f", words])
        for pid in found.split():
            with contextlib.suppress(subprocess.CalledProcessError):
                self.hosts.output(self.number(node), ["kill", "-9", pid])

    def kill_agent(self, node: str) -> None:
        self.kill(node, "agent --name")

    def close(self) -> None:
        for engine, membership in self._opened:
            if not membership.closed:
                membership.close()
                engine.close()
        for process in _of_ray(_HOME):
            os.kill(process, signal.SIGKILL)


def _of_ray(temporary: Path) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(temporary).encode() in path.read_bytes():
                yield int(path.parent.name)
