"""Know what runs on one machine, from what its agent says and from what was launched there.

No input, no output, no clock: the engine gives the answers of the agent, and reads the statuses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from powerflow.engine.cluster.rows import node_from_row, node_row, status_from_row, status_row
from powerflow.engine.protocol import EngineNode, RankName, RankState, RankStatus


@dataclass(slots=True)
class Machine:
    """One machine of the cluster, which has one agent and one or more nodes.

    Attributes:
        name: Name of the machine.
        key: Public key of its agent, hexadecimal. No other agent may take the machine's place.
        incarnation: Incarnation of the agent that answered last.
        nodes: Its nodes, by name.
        ranks: Status of each rank as the agent said it last, or as it was launched.
        ended_by_word: Ranks that an operator has declared lost, with the machine: they are ended if they still run.
        up: True if the agent answers.
        seen_s: When the agent last answered, Unix seconds; nan if it has not answered this controller.
        version: Version of the agent's table of ranks that was taken last.
        limits: Limits that the machine can enforce.
        gpus: Its GPUs, each as the agent has described it.
        report: The agent's last report of its GPUs (`powerflow.engine.devices`); None if none has come.
        report_s: When it came, on the monotonic clock of the controller.
    """

    name: str
    key: str
    incarnation: str = ""
    nodes: dict[str, EngineNode] = field(default_factory=dict)
    ranks: dict[RankName, RankStatus] = field(default_factory=dict)
    ended_by_word: set[RankName] = field(default_factory=set)
    up: bool = False
    seen_s: float = math.nan
    version: int = 0
    limits: frozenset[str] = frozenset()
    gpus: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] | None = None
    report_s: float = math.nan

    def row(self) -> dict[str, Any]:
        """Return what must be known after a restart of the controller, as JSON data."""
        return {
            "name": self.name,
            "key": self.key,
            "incarnation": self.incarnation,
            "nodes": [node_row(node) for node in self.nodes.values()],
            "ranks": [status_row(status) for status in self.ranks.values()],
            "ended_by_word": sorted(map(str, self.ended_by_word)),
            "limits": sorted(self.limits),
            "gpus": self.gpus,
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Machine:
        """Return the machine that JSON data from `row` describe. It does not answer yet."""
        return Machine(
            row["name"],
            row["key"],
            row["incarnation"],
            {node.name: node for node in map(node_from_row, row["nodes"])},
            {status.name: status for status in map(status_from_row, row["ranks"])},
            set(map(RankName.parse, row["ended_by_word"])),
            limits=frozenset(row["limits"]),
            gpus=list(row.get("gpus", ())),
        )

    def described(self, about: Mapping[str, Any], incarnation: str) -> None:
        """Take an agent's description of its machine."""
        self.nodes = {
            row["name"]: replace(node_from_row(row), incarnation=incarnation, up=True) for row in about["nodes"]
        }
        self.limits = frozenset(about["limits"])
        self.gpus = list(about.get("gpus", ()))
        if incarnation != self.incarnation:
            self.version = 0
        self.incarnation = incarnation

    def heard(self, report: dict[str, Any] | None, now_s: float) -> None:
        """Take a report of the GPUs that has come at a moment of the monotonic clock; None: nothing is new."""
        if report is not None:
            self.report, self.report_s = report, now_s

    def begin(self, status: RankStatus) -> None:
        """Note that a rank is about to be launched here."""
        self.ranks[status.name] = status
        self.ended_by_word.discard(status.name)

    def take(self, rows: Iterable[Mapping[str, Any]], gone: Iterable[str], *, whole: bool) -> list[RankName]:
        """Take statuses that the agent has sent. Return ranks that must be launched again, or told to the gangs.

        Args:
            rows: Statuses as JSON data.
            gone: Names of ranks whose records the agent has deleted.
            whole: True if the agent has sent all its ranks. Then a rank that it does not know does not run: it is
                lost; if it was only about to be launched, it is returned.
        """
        told = {status.name: status for status in map(status_from_row, rows)}
        for name, status in told.items():
            if not status.state.may_run:
                self.ended_by_word.discard(name)
            known = self.ranks.get(name)
            if known is None or known.state is not RankState.LOST:  # what counts as lost stays lost
                self.ranks[name] = status
        for text in gone:
            name = RankName.parse(text)
            if name not in told and not self.may_run(name):
                self.ranks.pop(name, None)
        again = []
        for name, status in list(self.ranks.items()) if whole else ():
            if name in told:
                continue
            if status.state is RankState.EXITED:
                del self.ranks[name]  # its records were deleted
            if not status.state.may_run:
                continue
            if status.state is RankState.STARTING:
                again.append(name)
            else:
                self.ranks[name] = replace(status, state=RankState.LOST, code=None, ended_s=status.started_s)
        return again

    def may_run(self, name: RankName) -> bool:
        """Return True if a rank may run here."""
        status = self.ranks.get(name)
        return status is not None and status.state.may_run

    def has_gang(self, gang: str) -> bool:
        """Return True if a rank of a gang was launched here and not forgotten."""
        return any(name.gang == gang for name in self.ranks)

    def declare_off(self, now_s: float) -> None:
        """Take an operator's word that this machine is off: its ranks are lost."""
        for name, status in self.ranks.items():
            if status.state.may_run:
                self.ranks[name] = replace(status, state=RankState.LOST, code=None, ended_s=now_s)
                self.ended_by_word.add(name)

    def status(self, name: RankName) -> RankStatus | None:
        """Return the status of a rank, as far as the controller can know it now; None if it was not launched here."""
        status = self.ranks.get(name)
        if status is None or self.up or not status.state.may_run:
            return status
        return replace(status, state=RankState.UNREACHABLE)

    def statuses(self) -> list[RankStatus]:
        """Return the status of each rank, as far as the controller can know it now."""
        if self.up:
            return list(self.ranks.values())
        return [status for name in self.ranks if (status := self.status(name)) is not None]

    def listed(self) -> list[EngineNode]:
        """Return the nodes of this machine, each with whether it answers and when it last answered."""
        return [replace(node, up=self.up, seen_s=self.seen_s) for node in self.nodes.values()]
