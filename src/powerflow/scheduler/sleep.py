"""Put empty nodes to sleep, wake them when jobs need them, and estimate what a sleep saves.

A node goes to sleep once it has been empty for so long that the energy it used equals the energy of waking it. It then
uses at most twice the energy of the best choice in hindsight, and no rule that does not know the future has a better
worst case (the ski-rental argument; Karlin et al., Competitive snoopy caching, 1988).

How long a node that is emptied now will sleep is estimated from past sleeps in its pool.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.packed_pool import ASLEEP, UP
from powerflow.cluster.spec import Node

STRETCHES = 32  # number of past times of standing empty that are kept


def awake_watts(node: Node, gpu_idle_w: float) -> float:
    """Return the watts of an empty node that is awake: its host and its idle GPUs."""
    return node.idle_w + node.gpus * gpu_idle_w


def patience_s(node: Node, gpu_idle_w: float) -> float:
    """Return how long a node stands empty before it sleeps: then idling has used the energy of waking."""
    saved_w = awake_watts(node, gpu_idle_w) - node.sleep_w
    return node.wake_s * awake_watts(node, gpu_idle_w) / saved_w if saved_w > 0 else math.inf


def baseline_watts(nodes: tuple[Node, ...], gpu_idle_w: float) -> float:
    """Return the watts that one more GPU in use does not add, because they are drawn anyway.

    If nodes stay awake, these are the GPU's idle watts. If every node sleeps when it is empty, a job also adds the host
    that it wakes: then the result is (watts asleep − watts of the host) per GPU, which may be negative.
    """
    if not all(node.can_sleep for node in nodes):
        return gpu_idle_w
    return sum(node.sleep_w - node.idle_w for node in nodes) / sum(node.gpus for node in nodes)


class Sleepers:
    """Decides which nodes of one pool sleep; ``nodes`` must be in the order of the pool's `Occupancy`."""

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
        # past times of standing empty: start, and how many seconds of it the node slept
        self._stretches: deque[tuple[float, float]] = deque(maxlen=STRETCHES)
        self._due_s = math.inf

    def __bool__(self) -> bool:
        return self._any

    def wake(self, occupancy: Occupancy, gpus: int, now_s: float) -> list[str]:
        """Wake nodes in their order until ``gpus`` GPUs are free; return their names."""
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
        """Return the seconds until all nodes of an owner are up."""
        ready_s = (self._ready_s.get(share.node, 0.0) for share in occupancy.placement(owner))
        return max(0.0, max(ready_s, default=0.0) - now_s)

    def sleep(self, occupancy: Occupancy, now_s: float) -> list[str]:
        """Put nodes to sleep that have been empty long enough; return their names. Call it at every decision."""
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
        """Return when the next empty node will go to sleep; ``inf`` if none will."""
        return self._due_s

    def expected_sleep_s(self, now_s: float) -> float:
        """Return how long a node that is emptied now is expected to sleep before a job needs it, seconds.

        This is the mean over the last `STRETCHES` times in which a node of the pool stood empty: 0 if it was used again
        before it slept, the time so far if it still sleeps. One more value, the mean patience of the nodes, is included
        as a prior. Nodes that are empty and awake are left out.
        """
        asleep = np.flatnonzero(~np.isnan(self._asleep_since_s))
        so_far_s = now_s - self._asleep_since_s[asleep]
        still = zip(self._empty_since_s[asleep].tolist(), so_far_s.tolist(), strict=True)
        recent = sorted([*self._stretches, *still])[-STRETCHES:]
        total_s: float = sum(slept_s for _, slept_s in recent)
        return (self._prior_s + total_s) / (1 + len(recent))

    def gains(self, energy_price: float, now_s: float) -> FloatArray:
        """Return the expected value of each node's next sleep, ``[N]`` weighted seconds; 0 if it cannot sleep.

        It is λ_E × (joules saved asleep − joules of waking) − the time that a job waits for the node to wake.
        """
        joules = self._saved_w * self.expected_sleep_s(now_s) - self._awake_w * self._wake_s
        return np.where(self._can, energy_price * joules - self._wake_s, 0.0)

    def _stretch_ends(self, i: int, now_s: float) -> None:
        """Record how long a node slept that is used again."""
        slept_s = now_s - float(self._asleep_since_s[i])
        self._stretches.append((float(self._empty_since_s[i]), 0.0 if math.isnan(slept_s) else slept_s))
        self._empty_since_s[i] = self._asleep_since_s[i] = np.nan
