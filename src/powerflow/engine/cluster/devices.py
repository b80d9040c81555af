"""Read the GPUs of all machines, and ask for clocks, through the agents."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from powerflow.engine.cluster.tables import ClusterTables
from powerflow.engine.devices import Report, aged

#: How often an unchanged wish for clocks is renewed.
RENEW_S = 5.0


class ClusterDevices:
    """The GPUs of all machines: a `DeviceSource`. Any thread may use it.

    Args:
        tables: What is known of all machines.
        send: (machine, order) Sends an order to a machine when it answers; it replaces an order of the same kind that
            still waits.
    """

    def __init__(self, tables: ClusterTables, send: Callable[[str, dict[str, Any]], None]) -> None:
        self._tables, self._send = tables, send
        self._wishes: dict[str, tuple[Mapping[str, float], float]] = {}  # clocks by machine, and when it was told

    def machines(self) -> Sequence[str]:
        """Return the names of all machines."""
        with self._tables.changed:
            return list(self._tables.machines)

    def describe(self, machine: str) -> Sequence[Mapping[str, Any]]:
        """Return the GPUs of a machine. See `DeviceSource.describe`."""
        with self._tables.changed:
            found = self._tables.machines.get(machine)
            return [] if found is None else found.gpus

    def report(self, machine: str) -> Report | None:
        """Return the last report of a machine; None if this controller has got none, or the machine does not answer."""
        with self._tables.changed:
            found = self._tables.machines.get(machine)
            if found is None or not found.up or found.report is None:
                return None
            return aged(found.report, time.monotonic() - found.report_s)

    def want(self, machine: str, clocks_mhz: Mapping[str, float]) -> None:
        """Ask for clocks (MHz) by UUID. See `DeviceSource.want`."""
        now_s = time.monotonic()
        wish, sent_s = self._wishes.get(machine, ({}, -math.inf))
        if clocks_mhz != wish or now_s - sent_s >= RENEW_S:
            self._wishes[machine] = dict(clocks_mhz), now_s
            self._send(machine, {"do": "want", "clocks_mhz": dict(clocks_mhz)})

    def acknowledge(self, machine: str, ledger: str, version: int, audit: int) -> None:
        """Tell a machine what has been stored. See `DeviceSource.acknowledge`."""
        self._send(machine, {"do": "acknowledge", "ledger": ledger, "version": version, "audit": audit})
