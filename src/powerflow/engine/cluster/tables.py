"""Keep what the controller knows of all machines. Any thread may use it, while it holds the lock ``changed``."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from powerflow.engine.cluster.known import KeptState
from powerflow.engine.cluster.machine import Machine
from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState, RankStatus


class ClusterTables:
    """All machines of a cluster, the fences of gangs, and notices for operators.

    Args:
        kept: Where machines and fences are kept.

    Attributes:
        changed: The lock of everything here. It is notified whenever `version` rises.
        version: Rises whenever a rank or a machine has changed.
        closed: True after the engine was closed.
        machines: The machines, by name.
        fences: Lowest epoch that may still be launched, by gang.
        specs: Specs of ranks that are about to start. They may hold secrets, and are never written to disk.
        notices: Notices for operators, by subject.
        described: What the agent of each machine has said of itself to this object, by machine.
    """

    def __init__(self, kept: KeptState) -> None:
        self.changed = threading.Condition()
        self.version = 0
        self.closed = False
        self.machines: dict[str, Machine] = {}
        self.fences: dict[str, int] = {}
        self.specs: dict[RankName, RankSpec] = {}
        self.notices: dict[str, str] = {}
        self.described: dict[str, dict[str, Any]] = {}
        self.kept = kept
        self._snapshot: tuple[int, tuple[RankStatus, ...]] = (-1, ())
        for key, value in kept.load().items():
            if key == "fences":
                self.fences = {gang: int(epoch) for gang, epoch in value.items()}
            elif key.startswith("machine."):
                machine = Machine.from_row(value)
                self.machines[machine.name] = machine

    # -- changes ------------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Wake all who wait for a change."""
        self.version += 1
        self.changed.notify_all()

    def keep(self, machine: Machine) -> None:
        """Write to disk what is known of a machine."""
        self.kept.put(f"machine.{machine.name}", machine.row())

    def drop(self, machine: Machine) -> None:
        """Forget a machine."""
        del self.machines[machine.name]
        self.kept.put(f"machine.{machine.name}", None)
        self.tell()

    def raise_fences(self, fences: Iterable[tuple[str, int]]) -> None:
        """Take fences; none is ever lowered."""
        new = {gang: epoch for gang, epoch in fences if self.fences.get(gang, -1) < epoch}
        if new:
            self.fences |= new
            self.kept.put("fences", dict(self.fences))

    def note(self, subject: str, text: str) -> None:
        """Show a notice about a subject; "" withdraws it."""
        if text:
            self.notices[subject] = f"{subject}: {text}"
        else:
            self.notices.pop(subject, None)

    def close(self) -> None:
        """Refuse all later calls."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    # -- questions ----------------------------------------------------------------------------------------------------

    def refuse_if_closed(self) -> None:
        """Raise an error after `close`.

        Raises:
            EngineError: The engine was closed.
        """
        if self.closed:
            raise EngineError("this engine object was closed")

    def of_node(self, node: str) -> Machine | None:
        """Return the machine of a node; None if there is no such node."""
        return next((machine for machine in self.machines.values() if node in machine.nodes), None)

    def answering(self, node: str) -> Machine:
        """Return the machine of a node.

        Raises:
            EngineError: There is no such node, or it does not answer.
        """
        machine = self.of_node(node)
        if machine is None:
            raise EngineError(f"there is no node {node!r}")
        if not machine.up:
            raise EngineError(f"{node} does not answer", retry=True)
        return machine

    def of_rank(self, rank: RankName) -> Machine | None:
        """Return the machine on which a rank was launched; None if it was not launched."""
        return next((machine for machine in self.machines.values() if rank in machine.ranks), None)

    def of_gang(self, gang: str) -> list[str]:
        """Return the names of the machines that have ranks of a gang."""
        return [machine.name for machine in self.machines.values() if machine.has_gang(gang)]

    def status(self, rank: RankName) -> RankStatus | None:
        """Return the status of a rank; None if it was not launched."""
        machine = self.of_rank(rank)
        return None if machine is None else machine.status(rank)

    def is_launched(self, rank: RankName) -> bool:
        """Return True if a rank was launched, and not only in vain."""
        status = self.status(rank)
        return status is not None and status.state is not RankState.NOT_STARTED

    def statuses(self) -> tuple[RankStatus, ...]:
        """Return the status of every rank."""
        if self._snapshot[0] != self.version:
            found = tuple(status for machine in self.machines.values() for status in machine.statuses())
            self._snapshot = self.version, found
        return self._snapshot[1]
