"""Make what runs ranks and reads GPUs for a live cluster: this machine alone, or the agents of many machines.

The agents of many machines dial in, or are reached through Ray. Until `lead` is called, they are only asked what they
are: a controller that does not have the store must not give orders.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from powerflow.agent.devices import NodeDevices
from powerflow.agent.direct import DirectDevices
from powerflow.agent.gpus import find_gpus
from powerflow.agent.metered_engine import MeteredEngine
from powerflow.agent.preload import preloaded
from powerflow.device.protocol import DeviceError
from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.listen import AgentListener
from powerflow.engine.devices import DeviceSource
from powerflow.engine.local import LocalEngine
from powerflow.engine.protocol import Engine
from powerflow.errors import InputError

#: Seconds until operators are told that the controller waits for the first agent.
FIRST_S = 2.0
#: Seconds in which other agents may join after the first one; later ones join while the controller runs.
OTHERS_S = 1.0


class EngineKind(StrEnum):
    """What starts the ranks of a live cluster."""

    LOCAL = "local"  # this machine alone
    AGENTS = "agents"  # agents of other machines, which dial in
    RAY = "ray"  # agents that are reached through Ray


@dataclass(frozen=True, slots=True)
class FabricSettings:
    """Where ranks run.

    Attributes:
        state: State directory of the controller.
        kind: What starts the ranks.
        emulate: Emulated GPUs of this machine, such as ``2x4:A100``; None for its NVIDIA GPUs. Agents have their own.
        agents: Host and port on which agents dial in.
        ray_address: Address of the Ray cluster, ``HOST:PORT``; None to start one on this machine.
        ray_agents: Arguments for the agents that are started through Ray.
    """

    state: Path
    kind: EngineKind = EngineKind.LOCAL
    emulate: str | None = None
    agents: tuple[str, int] = ("127.0.0.1", 0)
    ray_address: str | None = None
    ray_agents: tuple[str, ...] = ()


class Fabric(Protocol):
    """The machines of a live cluster.

    Attributes:
        left_out: GPUs of this machine that cannot be used, and why.
    """

    left_out: list[str]

    @property
    def engine(self) -> Engine:
        """Runs ranks on the machines."""
        ...

    @property
    def source(self) -> DeviceSource:
        """Reads their GPUs, and asks for clocks."""
        ...

    @property
    def started(self) -> bool:
        """True if this object has started the processes that start ranks."""
        ...

    def open(self, owner: str) -> None:
        """Make the engine, for ranks of the store ``owner``."""
        ...

    def lead(self, term: int) -> bool:
        """Give orders from now on, because this controller has the store.

        Return True if an agent of another version was replaced.

        Args:
            term: Number that rises with each controller that gets the store.
        """
        ...

    def can_switch_users(self) -> bool:
        """Return True if ranks can run as the users of their jobs."""
        ...

    def shutdown(self, *, kill: bool = False) -> None:
        """End the processes that start ranks on this machine.

        Args:
            kill: True to end running ranks, too.

        Raises:
            EngineError: Ranks run, and ``kill`` is False.
        """
        ...

    def close(self) -> None:
        """Release everything. Ranks run on."""
        ...


class OneMachine:
    """The GPUs of this machine, or emulated ones, and ranks on this machine: a `Fabric`.

    Raises:
        InputError: There is no GPU, or another controller uses one of the GPUs.
    """

    engine: MeteredEngine

    def __init__(self, settings: FabricSettings) -> None:
        self._state = settings.state
        self.left_out: list[str] = []
        directory, host = settings.state / "device", platform.node()
        gpus = find_gpus(directory, settings.state, host, settings.emulate, self.left_out.append)
        try:
            self._devices = NodeDevices(directory, gpus, machine=host)
        except DeviceError as error:
            raise InputError(str(error), fix="stop that controller first", exit_code=1) from error
        self.source = DirectDevices(self._devices)
        self._counts: dict[str, int] = {}
        for gpu in gpus:
            self._counts[gpu.node] = self._counts.get(gpu.node, 0) + 1
        self._local: LocalEngine | None = None

    def open(self, owner: str) -> None:
        """Make the engine. See `Fabric.open`."""
        self._local = LocalEngine(self._state / "engine", nodes=self._counts, preload=preloaded(), owner=owner)
        self.engine = MeteredEngine(self._local, self._devices)
        self._devices.start()

    def lead(self, term: int) -> bool:
        """Replace the local agent if it runs another version. See `Fabric.lead`."""
        return self._local is not None and self._local.renew_agent()

    def can_switch_users(self) -> bool:
        """Return True if ranks can run as the users of their jobs: this process is root."""
        return os.geteuid() == 0 and "user" in self.engine.limits()

    def shutdown(self, *, kill: bool = False) -> None:
        """End the local agent. See `Fabric.shutdown`."""
        if self._local is not None:
            self._local.shutdown(kill=kill)

    @property
    def started(self) -> bool:
        """True if this object has started the local agent."""
        return self._local is not None and self._local.started

    def close(self) -> None:
        """Release the GPUs and the engine. Ranks run on."""
        self._devices.close()
        if self._local is not None:
            self._local.close()


class ManyMachines:
    """The machines of agents that dial in, or that Ray reaches: a `Fabric`.

    Raises:
        InputError: The address for agents cannot be used, Ray cannot be reached, or Ray is not installed.
    """

    def __init__(self, settings: FabricSettings) -> None:
        self.left_out: list[str] = []
        home = settings.state / "agents"
        self.engine = ClusterEngine(home, settings.state / "jobs", interpreter=sys.executable)
        self.source = self.engine.devices
        self.started = False
        self._how = "Ray has no node"
        self._closers: list[Callable[[], None]] = [self.engine.close]
        try:
            if settings.kind is EngineKind.RAY:
                self._join_ray(settings)
            else:
                listener = AgentListener(self.engine, *settings.agents)
                token = home / "join-token"
                self._how = (
                    f"on each machine: powerflow agent --controller HOST:{listener.port} --token-file (of {token})"
                )
                self._closers.insert(0, listener.close)
        except BaseException:
            self.close()
            raise

    def _join_ray(self, settings: FabricSettings) -> None:
        try:
            from powerflow.engine.ray.cluster import RayAgents, RayMembership
        except ImportError as error:
            raise InputError(
                f"needs Ray, which is not installed ({error})",
                where="--engine ray",
                fix="pip install 'powerflow-scheduler[ray]'",
                exit_code=1,
            ) from None
        agents = RayAgents(f"/var/tmp/powerflow-agent-{os.getuid()}", settings.ray_agents)
        self._closers.insert(0, RayMembership(self.engine, agents, settings.ray_address).close)

    def open(self, owner: str) -> None:
        """Wait for the first agent, and a moment for others. See `Fabric.open`."""
        if not self.engine.await_machines(FIRST_S):
            print(f"powerflow: no machine has joined yet; {self._how}", file=sys.stderr, flush=True)
            while not self.engine.await_machines(FIRST_S):
                pass
        time.sleep(OTHERS_S)

    def lead(self, term: int) -> bool:
        """Give orders to agents from now on. See `Fabric.lead`."""
        self.engine.lead(term)
        return False

    def can_switch_users(self) -> bool:
        """Return True if every machine can run ranks as the users of their jobs."""
        return "user" in self.engine.limits()

    def shutdown(self, *, kill: bool = False) -> None:
        """Do nothing: agents belong to their machines."""

    def close(self) -> None:
        """Disconnect from all agents. Ranks run on."""
        for close in self._closers:
            close()
        self._closers.clear()
