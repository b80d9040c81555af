"""Run ranks and meter them: an engine for the nodes of one machine, together with the machine's GPUs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from powerflow.agent.devices import NodeDevices
from powerflow.agent.engine_layer import EngineLayer
from powerflow.device.protocol import DeviceError
from powerflow.engine.protocol import Engine, EngineError, RankName, RankSpec, RankStatus


class MeteredEngine(EngineLayer):
    """Engine that gives each rank its GPUs, and reads their energy when it begins and ends. Any thread may use it.

    The GPUs of a rank (`RankSpec.gpus`) get into its environment here, because only the machine itself knows them.
    `ranks` reports the end of a rank only after the energy of its GPUs was read.

    Args:
        engine: Engine that runs ranks on this machine.
        devices: All GPUs of this machine.
    """

    def __init__(self, engine: Engine, devices: NodeDevices) -> None:
        super().__init__(engine)
        self._devices = devices
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

    def post(self, gang: str, file: str, text: str) -> None:
        """Do nothing, because ranks see the caller's file system. See `Engine.post`."""

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        self._engine.forget(name)
        self._devices.forget(str(name))
        with self._guard:
            if not any(status.name == name and status.state.may_run for status in self._answer):
                self._gpus.pop(str(name), None)
