"""Follow the machines of a cluster: their GPUs, and the last report of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from powerflow.cost.catalogue import GpuType, declare
from powerflow.device.protocol import Place
from powerflow.engine.devices import DeviceSource, Report
from powerflow.live.gpus.ledgers import TakenLedger
from powerflow.live.gpus.readings import LastReadings, readings_in


@dataclass(frozen=True, slots=True)
class ClusterGpu:
    """A GPU of the cluster, as its machine has described it.

    Attributes:
        machine: Name of its machine.
        uuid: Globally unique name of the GPU.
        node, index: Its node, and its number there, from 0.
        gpu_type: Name in the catalogue.
        emulated: True if the hardware does not exist.
        vendor_name: Type in the driver's words.
        driver_index: Number that the driver gives to it; None if unknown.
        place: ``node`` and ``index``.
    """

    machine: str
    uuid: str
    node: str
    index: int
    gpu_type: str
    emulated: bool
    vendor_name: str
    driver_index: int | None
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", (self.node, self.index))


@dataclass(slots=True)
class Machine:
    """A machine of the cluster.

    Attributes:
        gpus, described: Its GPUs, and its own description of them.
        ledger: What was taken from its ledger.
        taken_s: When that was, Unix seconds; nan if nothing was taken yet.
        report: Its last report; None if none has come yet.
        taken_at: Name of the report from which readings were taken last.
        heard_s: When the last new reading came, Unix seconds.
        read_s: When the machine took that reading, Unix seconds; nan if none has come yet.
        boot: Id of its boot when it last reported; "" if it has not.
        noted: Number of the last audit entry that was stored.
        seen: What its last readings say of each GPU.
    """

    gpus: Sequence[ClusterGpu]
    described: Sequence[Mapping[str, Any]]
    ledger: TakenLedger
    taken_s: float = math.nan
    report: Report | None = None
    taken_at: str = ""
    heard_s: float = -math.inf
    read_s: float = math.nan
    boot: str = ""
    noted: int = 0
    seen: LastReadings = field(default_factory=LastReadings)

    @property
    def has_news(self) -> bool:
        """True if readings have come that were not taken yet."""
        return self.report is not None and self.report["at"] != self.taken_at

    def read(self) -> None:
        """Read what the last report says of the GPUs."""
        if self.report is not None:
            self.seen = readings_in(self.report, {gpu.uuid: gpu.place for gpu in self.gpus})


@dataclass(slots=True)
class Machines:
    """All machines of the cluster, and all GPUs by place and by UUID.

    Attributes:
        unsaved: What was taken from machines, also from those that have gone, and is not stored yet.
    """

    source: DeviceSource
    by_name: dict[str, Machine] = field(default_factory=dict)
    gpus: dict[Place, ClusterGpu] = field(default_factory=dict)
    place: dict[str, Place] = field(default_factory=dict)
    unsaved: dict[str, TakenLedger] = field(default_factory=dict)

    def changed(self) -> bool:
        """Return True if a machine has come, has gone, or has other GPUs than before."""
        names = self.source.machines()
        return len(names) != len(self.by_name) or any(self._is_new(name) for name in names)

    def follow(self, kept: Callable[[str], Mapping[str, Any] | None]) -> None:
        """Take in machines that have come or have other GPUs, and drop those that have gone.

        Args:
            kept: Returns the stored state of a machine's `TakenLedger`.
        """
        names = self.source.machines()
        for name in self.by_name.keys() - set(names):
            del self.by_name[name]
        for name in names:
            if not self._is_new(name):
                continue
            described = self.source.describe(name)
            gpus = [cluster_gpu(name, plain) for plain in described]
            if name in self.by_name:
                self.by_name[name].gpus, self.by_name[name].described = gpus, described
            else:
                taken = self.unsaved[name].state() if name in self.unsaved else kept(name)
                self.by_name[name] = Machine(gpus, described, TakenLedger(taken))
        every = [gpu for machine in self.by_name.values() for gpu in machine.gpus]
        self.gpus, self.place = {gpu.place: gpu for gpu in every}, {gpu.uuid: gpu.place for gpu in every}

    def _is_new(self, name: str) -> bool:
        before, now = self.by_name.get(name), self.source.describe(name)
        return before is None or (before.described is not now and before.described != now)

    def look(self) -> None:
        """Get the last report of each machine."""
        for name, machine in self.by_name.items():
            machine.report = self.source.report(name) or machine.report

    def row(self, place: Place) -> Mapping[str, Any] | None:
        """Return the row of a GPU in the last report of its machine; None if there is none."""
        gpu = self.gpus.get(place)
        report = self.by_name[gpu.machine].report if gpu is not None else None
        found: Mapping[str, Any] | None = (
            report["gpus"].get(gpu.uuid) if report is not None and gpu is not None else None
        )
        return found


def gpus_of(source: DeviceSource, machine: str) -> list[ClusterGpu]:
    """Return the GPUs of a machine, as it has described them. The catalogue learns their types."""
    return [cluster_gpu(machine, plain) for plain in source.describe(machine)]


def cluster_gpu(machine: str, plain: Mapping[str, Any]) -> ClusterGpu:
    """Return a GPU from its machine's description, see `powerflow.agent.gpus.described`."""
    if plain["card"] is not None:
        declare(GpuType(**plain["card"]))
    return ClusterGpu(
        machine,
        str(plain["uuid"]),
        str(plain["node"]),
        int(plain["index"]),
        str(plain["gpu_type"]),
        bool(plain["emulated"]),
        str(plain["vendor_name"]),
        plain["driver_index"],
    )
