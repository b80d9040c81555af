"""Make what runs ranks and reads GPUs for a live cluster: this machine alone, or the agents of many machines.

The agents of many machines dial in, or are reached through Ray. Until `lead` is called, they are only asked what they
are: a controller that does not have the store must not give orders.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerflow import __version__
from powerflow.agent.own import FOLDER
from powerflow.agent.preload import PRELOAD
from powerflow.cluster.spec import parse_cluster
from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.listen import AgentListener, keep_connected
from powerflow.engine.kind import EngineKind
from powerflow.engine.protocol import EngineError
from powerflow.engine.ray.membership import RayAgents, RayMembership
from powerflow.errors import InputError

#: Seconds until operators are told that the controller waits for the first agent.
FIRST_S = 2.0
#: Seconds in which other agents may join after the first one; later ones join while the controller runs.
OTHERS_S = 1.0
#: Longest wait for the agent of this machine.
OWN_S = 60.0


@dataclass(frozen=True, slots=True)
class FabricSettings:
    """Where ranks run.

    Attributes:
        state: State directory of the controller.
        kind: What starts the ranks.
        emulate: Emulated GPUs of this machine, such as ``2x4:A100``; None for its NVIDIA GPUs. Agents have their own.
        agents: Host and port on which agents dial in.
        ray_address: Address of the Ray cluster, ``HOST:PORT``; None to start one on this machine.
        ray_emulate: Emulated GPUs of the agents that are started through Ray; None for their real ones.
    """

    state: Path
    kind: EngineKind = EngineKind.LOCAL
    emulate: str | None = None
    agents: tuple[str, int] = ("127.0.0.1", 0)
    ray_address: str | None = None
    ray_emulate: str | None = None


class Fabric(ABC):
    """The machines of a live cluster, and their agents.

    Attributes:
        engine: Runs ranks on the machines.
        source: Reads their GPUs, and asks for clocks.
        left_out: GPUs of this machine that cannot be used, and why.
        started: True if this object has started an agent.
        runs_as_users: True if each rank runs as the user of its job. Then a machine that cannot do this refuses the
            rank. Otherwise all ranks run as the user of this process, and nobody else may submit jobs.
    """

    def __init__(self, settings: FabricSettings, *, pins: bool, runs_as_users: bool) -> None:
        self.left_out: list[str] = []
        self.started = False
        self.runs_as_users = runs_as_users
        self.home = settings.state / "agents"
        self.engine = ClusterEngine(self.home, settings.state / "jobs", interpreter=sys.executable, pins=pins)
        self.source = self.engine.devices
        self._closers: list[Callable[[], None]] = [self.engine.close]

    @abstractmethod
    def open(self, owner: str) -> None:
        """Wait until agents can be reached, for ranks of the store ``owner``."""

    def lead(self, term: int) -> bool:
        """Give orders from now on, because this controller has the store.

        Return True if an agent of another version was replaced.

        Args:
            term: Number that rises with each controller that gets the store.
        """
        self.engine.lead(term)
        return False

    @abstractmethod
    def shutdown(self, *, kill: bool = False) -> None:
        """End the agent that belongs to this controller, if there is one.

        Args:
            kill: True to end running ranks, too.

        Raises:
            EngineError: Ranks run, and ``kill`` is False.
        """

    def close(self) -> None:
        """Disconnect from all agents. Ranks run on."""
        for close in self._closers:
            close()
        self._closers.clear()


class ManyMachines(Fabric):
    """The machines of agents that dial in, or that Ray reaches: a `Fabric`.

    Raises:
        InputError: The address for agents cannot be used, Ray cannot be reached, or Ray is not installed.
    """

    def __init__(self, settings: FabricSettings) -> None:
        super().__init__(settings, pins=True, runs_as_users=True)
        self._how = "no node of Ray that has GPUs has answered"
        self._embedded = settings.kind is EngineKind.RAY and settings.ray_address is None
        try:
            if settings.kind is EngineKind.RAY:
                self._join_ray(settings)
            else:
                listener = AgentListener(self.engine, *settings.agents)
                token = self.home / "join-token"
                agent = f"powerflow agent --controller HOST:{listener.port} --token-file FILE"
                self._how = f"on each machine: {agent}, with a copy of {token}"
                self._closers.insert(0, listener.close)
        except BaseException:
            self.close()
            raise

    def _join_ray(self, settings: FabricSettings) -> None:
        directory, emulate = f"/var/tmp/powerflow-agent-{os.getuid()}", settings.ray_emulate
        emulated = (("--emulate", emulate), parse_cluster(emulate, "--ray-emulate").gpus) if emulate else ()
        agents = RayAgents(directory, *emulated)
        self._closers.insert(0, RayMembership(self.engine, agents, settings.ray_address, _without_settings()).close)

    def open(self, owner: str) -> None:
        """Wait for the first agent, and a moment for others. See `Fabric.open`."""
        if not self.engine.await_machines(FIRST_S):
            print(f"powerflow: no machine has joined yet; {self._how}", file=sys.stderr, flush=True)
            while not self.engine.await_machines(FIRST_S):
                pass
        time.sleep(OTHERS_S)

    def shutdown(self, *, kill: bool = False) -> None:
        """End the agent of an embedded Ray; other agents belong to their machines. See `Fabric.shutdown`."""
        for machine in self.source.machines() if self._embedded else ():
            self.engine.end_agent(machine, kill=kill)


class OneMachine(Fabric):
    """This machine alone. Its agent listens on a socket in the state directory: a `Fabric`."""

    def __init__(self, settings: FabricSettings) -> None:
        # only this user reaches the socket; the agent has the same user
        super().__init__(settings, pins=False, runs_as_users=os.geteuid() == 0)
        if settings.emulate is not None:  # before anything is started
            parse_cluster(settings.emulate, "--emulate")
        self._state, self._emulate = settings.state, settings.emulate
        self._socket = settings.state / FOLDER / "agent.sock"
        self._owner = ""
        self._renewed = self._ending = False

    def open(self, owner: str) -> None:
        """Start the agent, unless one of this version runs already. See `Fabric.open`.

        Raises:
            InputError: There is no GPU, or another controller uses one of the GPUs.
        """
        self._owner = owner
        self._ensure()
        self.engine.begin(keep_connected(self.engine, self._socket, self._try_to_ensure))
        about = self._described()
        if about["version"] != __version__:
            self._renewed = True
            _end(int(about["pid"]))  # `keep_connected` starts the new one; ranks run on
            about = self._described(since=str(about["incarnation"]))
        self.left_out = [str(words) for words in about["left_out"]]

    def _described(self, since: str = "") -> dict[str, Any]:
        """Return what the agent says of itself, once an agent of another incarnation than ``since`` has said it."""
        about = self.engine.await_described(OWN_S, since)
        if about is None:
            why = "; ".join(self.engine.notices()) or "it does not answer"
            raise InputError(f"the agent of this machine cannot be used: {why}", where=str(self._socket), exit_code=1)
        return about

    def _ensure(self) -> None:
        """Start the agent, unless it runs.

        Raises:
            InputError: It cannot be started.
        """
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as tried:
            tried.connect(str(self._socket))
            return
        self.started = True
        words = [sys.executable, "-m", "powerflow.agent.own", str(self._state), "--owner", self._owner]
        words += ["--token-file", str(self.home / "join-token")]
        words += ["--emulate", self._emulate] if self._emulate else []
        env = _without_settings()
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=env)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"error": f"the agent of this machine cannot be started: {done.stderr.strip()[-500:]}"}
        if "error" in answer:
            raise InputError(answer["error"], exit_code=int(answer.get("exit_code", 1)))

    def _try_to_ensure(self) -> None:
        with contextlib.suppress(InputError):
            if not self._ending:
                self._ensure()

    def lead(self, term: int) -> bool:
        """Give orders to the agent from now on, and wait until it obeys. See `Fabric.lead`."""
        super().lead(term)
        self.engine.await_up(OWN_S)
        return self._renewed

    def shutdown(self, *, kill: bool = False) -> None:
        """End the agent. See `Fabric.shutdown`."""
        about = self.engine.await_described(0.0)
        if about is None:
            return
        self._ending = True  # it is not started again
        try:
            self.engine.end_agent(str(about["machine"]), kill=kill)
        except EngineError:
            self._ending = False
            raise
        _await_end(int(about["pid"]))


def _without_settings() -> dict[str, str]:
    """Return the environment of a child: settings of the controller, which may be secrets, are none of its."""
    return {name: text for name, text in os.environ.items() if name == PRELOAD or not name.startswith("POWERFLOW_")}


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    _await_end(pid)


def _await_end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            waiting = select.poll()  # `select` takes no descriptor above 1023
            waiting.register(descriptor, select.POLLIN)
            waiting.poll(1000 * OWN_S)
        finally:
            os.close(descriptor)
