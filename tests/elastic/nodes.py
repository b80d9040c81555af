"""A job on nodes that share no mailbox: each has its own copy, and a relay passes files on, late and out of order."""

from __future__ import annotations

import ctypes
import heapq
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powerflow.elastic.mailbox import CHECKPOINT_FILE, JOB_DIR, RANK_NAME, Mailbox
from powerflow.osutil.files import replaced
from powerflow.testing.hosts import INTERFACE, Hosts, move_to
from tests.elastic import trainee
from tests.elastic.supervisor import Supervisor
from tests.processes import CONTEXT

CONTROLLER = "controller"
_FROM_CONTROLLER = ("target.json", "patience.json")
_PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent ends
_libc = ctypes.CDLL(None)


class Relay:
    """Passes the files of a mailbox from each node to all others, each file after a delay of its own.

    One file's versions never overtake each other, as on one connection; any two files do.
    """

    def __init__(self, folders: Mapping[str, Path], least_s: float, most_s: float, seed: int) -> None:
        self.folders = folders
        self.delay_s = (least_s, most_s)
        self._rng = random.Random(seed)
        self._known: dict[tuple[str, str], str] = {}
        self._due: list[tuple[float, int, str, str, str, str]] = []
        self._numbers = itertools.count()
        self._last: dict[tuple[str, str, str], float] = {}
        self._cut: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay")
        self._thread.start()

    def cut(self, node: str) -> None:
        self._cut.add(node)

    def mend(self, node: str) -> None:
        self._cut.discard(node)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.03):  # each turn reads all files of all nodes
            for node in self.folders:
                self._collect(node)
            self._deliver()

    def _collect(self, node: str) -> None:
        folder = self.folders[node]
        for path in [*folder.glob("[!.]*.json"), *folder.glob("ranks/[!.]*.json")]:
            file, text = str(path.relative_to(folder)), path.read_text("utf-8")
            if (node == CONTROLLER) is not (file in _FROM_CONTROLLER) or self._known.get((node, file)) == text:
                continue
            self._known[node, file] = text
            for other in self.folders:
                if other != node:
                    last_s = self._last.get((node, other, file), 0.0)
                    at_s = max(last_s, time.monotonic() + self._rng.uniform(*self.delay_s))
                    self._last[node, other, file] = at_s
                    heapq.heappush(self._due, (at_s, next(self._numbers), node, other, file, text))

    def _deliver(self) -> None:
        held = []
        while self._due and self._due[0][0] <= time.monotonic():
            due = heapq.heappop(self._due)
            _, _, source, node, file, text = due
            if source in self._cut or node in self._cut:
                held.append(due)
                continue
            path = self.folders[node] / file
            if file == "switch.json" and path.exists() and _generation(path.read_text("utf-8")) >= _generation(text):
                continue
            self._known[node, file] = text
            with replaced(path) as new:
                new.write(text.encode())
        for due in held:
            heapq.heappush(self._due, due)


def _generation(text: str) -> int:
    return int(json.loads(text)["target"]["generation"])


def _train_on_host(init_pid: int, environment: Mapping[str, str], arguments: tuple[Any, ...]) -> None:
    """Train in a child process, which has a process id of the host, and end as it does."""
    cwd = os.getcwd()
    move_to(init_pid)
    os.chdir(cwd)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # of a group that an earlier test has formed
        os.environ.pop(name, None)
    os.environ.update(environment)
    child = os.fork()
    if not child:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        trainee.main(*arguments)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


class Nodes(Supervisor):
    """A job on several nodes. Without hosts the nodes are folders of this machine."""

    def __init__(
        self,
        directory: Path,
        count: int,
        *,
        delay_s: float,
        least_s: float = 0.0,
        hosts: Hosts | None = None,
        seed: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(directory, **options)
        self.hosts = hosts
        self.at: dict[str, int] = {}  # node of each rank
        folders = {CONTROLLER: directory}
        for i in range(1, count + 1):
            folders[str(i)] = (directory / f"node{i}" if hosts is None else hosts.disk(i)) / "job"
            Mailbox(folders[str(i)]).create()
        self.relay = Relay(folders, least_s, delay_s, seed)

    def __exit__(self, *exception: object) -> None:
        self.relay.close()
        super().__exit__(*exception)

    def launch_on(self, node: int, fault: str = "") -> str:
        """Start a rank on a node."""
        name = f"job.1.{len(self.processes)}"
        environment = {
            JOB_DIR: str(self.relay.folders[str(node)]),
            RANK_NAME: name,
            CHECKPOINT_FILE: str(self.mailbox.checkpoint),  # a folder that all nodes share
        }
        arguments = (str(self.directory), name, self.epochs, fault, environment, self.workers)
        self.at[name] = node
        if self.hosts is None:
            process = CONTEXT.Process(target=trainee.main, args=arguments)
        else:
            place = {
                "POWERFLOW_ADDRESS": self.hosts.address(node),
                "POWERFLOW_INTERFACE": INTERFACE,
                "TMPDIR": str(self.hosts.disk(node).parent / "tmp"),
            }
            process = CONTEXT.Process(target=_train_on_host, args=(self.hosts.init_pid(node), place, arguments))
        process.start()
        self.processes[name] = process
        return name

    def launch(self, count: int, fault: str = "", environment: Mapping[str, str] | None = None) -> list[str]:
        """Start ranks, on the nodes in turn."""
        nodes = len(self.relay.folders) - 1
        return [self.launch_on(len(self.processes) % nodes + 1, fault) for _ in range(count)]

    def node(self, name: str) -> str:
        return str(self.at[name])

    def cut(self, node: int) -> None:
        """Pull a node's cable, for ranks and relay."""
        self.relay.cut(str(node))
        if self.hosts is not None:
            self.hosts.cut(node)

    def mend(self, node: int) -> None:
        self.relay.mend(str(node))
        if self.hosts is not None:
            self.hosts.mend(node)
