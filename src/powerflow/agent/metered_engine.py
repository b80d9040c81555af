"""Run ranks and meter them: an engine for the nodes of one machine, together with the machine's GPUs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from powerflow.agent.devices import NodeDevices
from powerflow.device.protocol import DeviceError
from powerflow.engine.protocol import Engine, EngineError, EngineNode, RankName, RankSpec, RankStatus, launch_each


class MeteredEngine:
    """Engine that gives each rank its GPUs, and reads their energy when it begins and ends. Any thread may use it.

    The GPUs of a rank (`RankSpec.gpus`) get into its environment here, because only the machine itself knows them.
    `ranks` reports the end of a rank only after the energy of its GPUs was read.

    Args:
        engine: Engine that runs ranks on this machine.
        devices: All GPUs of this machine.
    """

    def __init__(self, engine: Engine, devices: NodeDevices) -> None:
        self._engine, self._devices = engine, devices
        self.shares_mailboxes, self.shells = engine.shares_mailboxes, engine.shells
        self._guard = threading.Lock()
        self._gpus: dict[str, tuple[str, ...]] = {}  # UUIDs, by the rank's name
        self._last: Sequence[RankStatus] | None = None
        self._answer: tuple[RankStatus, ...] = ()

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, and return its status. See `Engine.launch`."""
        name, devices = str(spec.name), self._devices
        try:
            uuids = devices.uuids(spec.node, spec.gpus)
            # nothing is started for an external rank
            env = devices.environment(name, spec.node, spec.gpus, spec.env) if spec.command else spec.env
            with self._guard:
                self._gpus[name] = uuids  # kept if the launch fails: the rank may run all the same
            devices.began(name, uuids)
        except DeviceError as error:
            raise EngineError(str(error)) from error
        try:
            status = self._engine.launch(replace(spec, env=env))
        except BaseException:
            devices.ended(name)
            raise
        if not status.state.may_run:
            devices.ended(name)
        with self._guard:
            self._last = None
        return replace(status, gpus=status.gpus or uuids)

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Start ranks one after another. See `Engine.launch_all`."""
        return launch_each(self.launch, specs)

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank, after the energy of those that have ended was read."""
        with self._guard:
            statuses = self._engine.ranks()
            if self._last is None or statuses != self._last:
                self._gpus = self._devices.held() | self._gpus  # from before this object
                self._answer = tuple(replace(s, gpus=s.gpus or self._gpus.get(str(s.name), ())) for s in statuses)
                self._devices.follow(self._answer)
                self._last = statuses
            return self._answer

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of this engine."""
        return self._engine.nodes()

    def limits(self) -> frozenset[str]:
        """Return the limits that this engine can enforce."""
        return self._engine.limits()

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node as its spec says; "" if nothing is known against it."""
        return self._engine.check(spec)

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that a node is off. See `Engine.declare_off`."""
        self._engine.declare_off(node)

    def notices(self) -> Sequence[str]:
        """Return what operators should know about the nodes. See `Engine.notices`."""
        return self._engine.notices()

    def post(self, gang: str, file: str, text: str) -> None:
        """Do nothing, because ranks see the caller's file system. See `Engine.post`."""

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. See `Engine.fence`."""
        self._engine.fence(gang, epoch)

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank and its descendants. See `Engine.signal`."""
        return self._engine.signal(name, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the state of a rank may have changed. See `Engine.wait`."""
        return self._engine.wait(timeout_s)

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote, and the offset after it. See `Engine.log`."""
        return self._engine.log(name, offset, limit)

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins. See `Engine.log_offset`."""
        return self._engine.log_offset(name, since_s)

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        self._engine.forget(name)
        self._devices.forget(str(name))
        with self._guard:
            if not any(status.name == name and status.state.may_run for status in self._answer):
                self._gpus.pop(str(name), None)

    def close(self) -> None:
        """Disconnect from the engine; its ranks continue to run, and its GPUs are still metered."""
        self._engine.close()
