"""Give a controller the GPUs of its own machine, without an agent process in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from powerflow.agent.devices import NodeDevices
from powerflow.engine.devices import Report


class DirectDevices:
    """A `DeviceSource` of one machine in the same process.

    Args:
        devices: The GPUs of the machine.
        turns: True to take the machine's turns whenever the controller asks or wishes something; False if the machine
            has a thread for its turns (`NodeDevices.start`).
    """

    def __init__(self, devices: NodeDevices, *, turns: bool = False) -> None:
        self._devices, self._turns = devices, turns
        self._described = devices.describe()

    def machines(self) -> Sequence[str]:
        """Return the name of the machine."""
        return [self._devices.machine]

    def describe(self, machine: str) -> Sequence[Mapping[str, Any]]:
        """Return the GPUs of the machine. See `NodeDevices.describe`."""
        return self._described

    def report(self, machine: str) -> Report | None:
        """Return the machine's report of this moment."""
        if self._turns:
            self._devices.turn()
        return self._devices.report()

    def want(self, machine: str, clocks_mhz: Mapping[str, float]) -> None:
        """Ask for clocks (MHz) by UUID. See `DeviceSource.want`."""
        self._devices.want(clocks_mhz)
        if self._turns:
            self._devices.turn()

    def acknowledge(self, machine: str, ledger: str, version: int, audit: int) -> None:
        """Tell the machine what has been stored. See `DeviceSource.acknowledge`."""
        self._devices.acknowledge(ledger, version, audit)
