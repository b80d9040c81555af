"""Put empty nodes to sleep, wake them when jobs need them, and estimate what a sleep saves.

An empty node goes to sleep when it has used, since it became empty, as much energy as waking it will use. With this
rule a node uses at most twice the energy of the best choice in hindsight. No rule that does not know the future has a
better worst case (the ski-rental argument; Karlin et al., Competitive snoopy caching, 1988).

How long a node will sleep if it is emptied now is estimated from past sleeps in its pool.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.packed_pool import ASLEEP, UP
from powerflow.cluster.spec import Node

STRETCHES = 32  # how many times in which a node was empty are kept, the latest


def awake_watts(node: Node, gpu_idle_w: float) -> float:
    """Return the watts of an empty node that is switched on: its host and its idle GPUs."""
    return node.idle_w + node.gpus * gpu_idle_w


def patience_s(node: Node, gpu_idle_w: float) -> float:
    """Return the seconds for which an empty node stays on before it goes to sleep; ``inf`` if sleep saves no watts.

    After this time, the empty node has used as much energy as waking it will use.

    Args:
        node: The node.
        gpu_idle_w: Watts of one idle GPU.
    """
    saved_w = awake_watts(node, gpu_idle_w) - node.sleep_w
    return node.wake_s * awake_watts(node, gpu_idle_w) / saved_w if saved_w > 0 else math.inf


def baseline_watts(nodes: tuple[Node, ...], gpu_idle_w: float) -> float:
    """Return the part of a used GPU's watts that is drawn even if no job uses the GPU.

    If some node of the pool cannot sleep, these are the idle watts of the GPU. If all nodes can sleep, a job also
    adds the watts of the host that it wakes. Then the result is (watts of the sleeping node − watts of the host) per
    GPU, which may be negative.

    Args:
        nodes: The nodes of the pool.
        gpu_idle_w: Watts of one idle GPU.
    """
    if not all(node.can_sleep for node in nodes):
        return float(gpu_idle_w)  # catalogues have integers, for which kernels would be compiled once more
    return sum(node.sleep_w - node.idle_w for node in nodes) / sum(node.gpus for node in nodes)


class Sleepers:
    """Decide which nodes of one pool sleep. The object is true if any node of the pool can sleep.

    Args:
        nodes: The nodes of the pool, in the order of the pool's `Occupancy`.
        gpu_idle_w: Watts of one idle GPU.
    """

    def __init__(self, nodes: tuple[Node, ...], gpu_idle_w: float) -> None:
        self._nodes = nodes
        self._can = np.array([node.can_sleep for node in nodes])
        self._any = bool(self._can.any())
        self._wake_s = np.array([node.wake_s for node in nodes])
        self._awake_w = np.array([awake_watts(node, gpu_idle_w) for node in nodes])
        self._saved_w = self._awake_w - np.array([node.sleep_w for node in nodes])
        patiences_s = [patience_s(node, gpu_idle_w) if node.can_sleep else math.inf for node in nodes]
        self._patience_s = np.array(patiences_s)
        finite_s = [s for s in patiences_s if s < math.inf]
        self._prior_s = sum(finite_s) / len(finite_s) if finite_s else 0.0
        # when each node became empty, and when it went to sleep; nan if it is not empty or not asleep
        self._empty_since_s = np.full(len(nodes), np.nan)
        self._asleep_since_s = np.full(len(nodes), np.nan)
        self._ready_s: dict[str, float] = {}
        # past times in which a node was empty: when it became empty, and for how many seconds it slept
        self._stretches: deque[tuple[float, float]] = deque(maxlen=STRETCHES)
        self._due_s = math.inf

    def __bool__(self) -> bool:
        return self._any

    def wake(self, occupancy: Occupancy, gpus: int, now_s: float) -> list[str]:
        """Switch on sleeping nodes, in the order of the pool, until ``gpus`` GPUs are free; return the nodes' names."""
        if occupancy.free >= gpus:
            return []
        woken = []
        for i in np.flatnonzero(occupancy.status() == ASLEEP).tolist():
            node = self._nodes[i]
            occupancy.wake(node.name)
            self._ready_s[node.name] = now_s + node.wake_s
            self._stretch_ends(i, now_s)
            woken.append(node.name)
            if occupancy.free >= gpus:
                break
        return woken

    def wait_s(self, occupancy: Occupancy, owner: int, now_s: float) -> float:
        """Return the seconds until all nodes on which a job holds GPUs are up; ``owner`` is the job's ledger row."""
        ready_s = (self._ready_s.get(share.node, 0.0) for share in occupancy.placement(owner))
        return max(0.0, max(ready_s, default=0.0) - now_s)

    def sleep(self, occupancy: Occupancy, now_s: float) -> list[str]:
        """Put nodes to sleep that have been empty for long enough, and return the names of these nodes.

        This must be called at every decision, because it also notes which nodes have become empty.
        """
        status = occupancy.status()
        asleep = status == ASLEEP
        empty = (status == UP) & (occupancy.room() == occupancy.pool.size) & self._can
        slept = ~np.isnan(self._asleep_since_s)
        for i in np.flatnonzero(~np.isnan(self._empty_since_s) & ~np.where(slept, asleep, empty)).tolist():
            if status[i] == UP and not slept[i]:
                self._stretch_ends(i, now_s)
            else:  # a failed or draining node does not show when jobs would have needed it
                self._empty_since_s[i] = self._asleep_since_s[i] = np.nan
        fresh = (asleep | empty) & np.isnan(self._empty_since_s)
        self._empty_since_s[fresh] = now_s
        self._asleep_since_s[fresh & asleep] = now_s
        due_s = np.where(empty, self._empty_since_s + self._patience_s, math.inf)
        due = np.flatnonzero(due_s <= now_s)
        for i in due.tolist():
            occupancy.sleep(self._nodes[i].name)
        self._asleep_since_s[due] = now_s
        due_s[due] = math.inf
        self._due_s = float(due_s.min())
        return [self._nodes[i].name for i in due.tolist()]

    def due_s(self) -> float:
        """Return when the next empty node will go to sleep; ``inf`` if no node will."""
        return self._due_s

    def expected_sleep_s(self, now_s: float) -> float:
        """Return the expected seconds of sleep of a node if it is emptied now.

        This is the mean over the last 32 (`STRETCHES`) times in which a node of the pool was empty. Each such time
        counts with the seconds that the node slept: 0 if a job used the node again before it slept, and the seconds so
        far if the node still sleeps. Nodes that are empty and awake are left out. One more value is included, because
        there are few sleeps in the beginning: the mean time for which nodes stay on after they became empty.
        """
        asleep = np.flatnonzero(~np.isnan(self._asleep_since_s))
        so_far_s = now_s - self._asleep_since_s[asleep]
        still = zip(self._empty_since_s[asleep].tolist(), so_far_s.tolist(), strict=True)
        recent = sorted([*self._stretches, *still])[-STRETCHES:]
        total_s: float = sum(slept_s for _, slept_s in recent)
        return (self._prior_s + total_s) / (1 + len(recent))

    def gains(self, energy_price: float, now_s: float) -> FloatArray:
        """Return the expected worth of the next sleep of each of the N nodes, ``[N]`` weighted seconds.

        The value is λ_E × (joules saved in the sleep − joules of waking) − the seconds that a job waits for the node to
        wake. It is 0 for a node that cannot sleep.

        Args:
            energy_price: Energy price λ_E, seconds per joule.
            now_s: The time.
        """
        joules = self._saved_w * self.expected_sleep_s(now_s) - self._awake_w * self._wake_s
        return np.where(self._can, energy_price * joules - self._wake_s, 0.0)

    def _stretch_ends(self, i: int, now_s: float) -> None:
        """Record how long node ``i`` slept since it became empty; the node is now used again."""
        slept_s = now_s - float(self._asleep_since_s[i])
        self._stretches.append((float(self._empty_since_s[i]), 0.0 if math.isnan(slept_s) else slept_s))
        self._empty_since_s[i] = self._asleep_since_s[i] = np.nan
