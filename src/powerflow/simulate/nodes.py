"""Compute when the nodes of the simulated cluster fail, which nodes sleep, and what they draw without jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

import numpy as np

from powerflow.cluster.spec import Node
from powerflow.scheduler.sleep import awake_watts
from powerflow.units import HOUR_S

BREAKS, IS_BACK = range(2)


class Nodes:
    """The states of all nodes (awake, asleep, failed), their random failures, and their watts without jobs.

    Args:
        nodes: All nodes of the cluster.
        gpu_idle_w: GPU type → watts of one idle GPU.
        mtbf_h: Mean hours between two failures of one node, exponentially distributed; ``inf`` for no failures.
        repair_h: Hours from the failure of a node until it is up again.
        seed: Seed of the random failures.
    """

    def __init__(
        self, nodes: Sequence[Node], gpu_idle_w: Mapping[str, float], mtbf_h: float, repair_h: float, seed: int
    ) -> None:
        self._nodes = nodes
        self._awake_w = {node.name: awake_watts(node, gpu_idle_w[node.gpu_type]) for node in nodes}
        self._by_name = {node.name: node for node in nodes}
        self._mtbf_h = mtbf_h
        self._repair_h = repair_h
        self._rng = np.random.default_rng([seed, 0xFA11])
        self._asleep: set[str] = set()
        self._broken: set[str] = set()  # these draw nothing
        self._due: list[tuple[float, int, int]] = []  # time, `BREAKS` or `IS_BACK`, position of the node
        if math.isfinite(mtbf_h):
            for number in range(len(nodes)):
                self._breaks_later(number, 0.0)

    def empty_watts(self) -> float:
        """Return the watts of the cluster without jobs when all nodes are awake."""
        return sum(self._awake_w.values())

    def tail_watts(self) -> float:
        """Return the watts of the cluster a long time after the last job: nodes that can sleep are asleep.

        Nodes that have failed draw nothing.
        """
        whole = (node for node in self._nodes if node.name not in self._broken)
        return sum(node.sleep_w if node.can_sleep else self._awake_w[node.name] for node in whole)

    def watts(self, name: str) -> float:
        """Return the watts that a node draws now, without the watts of jobs."""
        if name in self._broken:
            return 0.0
        return self._by_name[name].sleep_w if name in self._asleep else self._awake_w[name]

    # -- failures -----------------------------------------------------------------------------------------------

    def due_s(self) -> float:
        """Return the time in seconds at which the next node fails or recovers; ``inf`` if no node ever fails."""
        return self._due[0][0] if self._due else math.inf

    def next(self) -> tuple[Node, bool]:
        """Return the node that fails or recovers next, and True if it fails or False if it recovers.

        Each call removes this event and plans the next event of the same node.
        """
        now_s, kind, number = heappop(self._due)
        if kind == BREAKS:
            heappush(self._due, (now_s + HOUR_S * self._repair_h, IS_BACK, number))
        else:
            self._breaks_later(number, now_s)
        return self._nodes[number], kind == BREAKS

    def _breaks_later(self, number: int, now_s: float) -> None:
        heappush(self._due, (now_s + HOUR_S * self._rng.exponential(self._mtbf_h), BREAKS, number))

    # -- changes of state; each returns the watts that it adds ----------------------------------------------------

    def breaks(self, node: Node) -> float:
        """Mark a node as failed; return the change of the cluster's watts (negative)."""
        watts = node.sleep_w if node.name in self._asleep else self._awake_w[node.name]
        self._asleep.discard(node.name)
        self._broken.add(node.name)
        return -watts

    def is_back(self, node: Node) -> float:
        """Mark a failed node as repaired; return the watts by which the cluster's draw rises. The node is awake."""
        self._broken.discard(node.name)
        return self._awake_w[node.name]

    def sleeps(self, name: str) -> float:
        """Put a node to sleep; return the change of the cluster's watts (normally negative)."""
        self._asleep.add(name)
        return self._by_name[name].sleep_w - self._awake_w[name]

    def wakes(self, name: str) -> float:
        """Wake a node; return the watts that it adds. The node at once draws the watts of an awake node."""
        self._asleep.discard(name)
        return self._awake_w[name] - self._by_name[name].sleep_w
