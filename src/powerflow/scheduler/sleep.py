"""Which empty nodes are switched off, which are woken when room is needed, and what a sleep is worth.

A node that can sleep is put to sleep once it has stood empty for so long that the joules it wasted equal what a wake
costs. Without knowing when it will be needed again no rule does better in the worst case: it spends at most twice
what one that knows would (the ski-rental argument; Karlin et al., Competitive snoopy caching, 1988).

How long a node that is emptied now will sleep is expected from what nodes of the pool did before.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.packing import ASLEEP, UP
from powerflow.cluster.spec import Node

STRETCHES = 32  # so many are remembered


def awake_watts(node: Node, gpu_idle_w: float) -> float:
    """Watts of an empty node that is awake: its host and its idle GPUs."""
    return node.idle_w + node.gpus * gpu_idle_w


def patience_s(node: Node, gpu_idle_w: float) -> float:
    """Seconds a node stands empty before it sleeps: then idling has cost what waking costs."""
    saved_w = awake_watts(node, gpu_idle_w) - node.sleep_w
    return node.wake_s * awake_watts(node, gpu_idle_w) / saved_w if saved_w > 0 else math.inf


def baseline_watts(nodes: tuple[Node, ...], gpu_idle_w: float) -> float:
    """Watts that one more GPU in use does not add, because it draws them all the same.

    The GPU's idle draw, if nodes stay awake. Where every node sleeps when empty, what a sleeping node draws, less the
    host that a job wakes, spread over the GPUs: may be negative (design §5: D counts node watts only where an
    emptied node really powers off).
    """
    if not all(node.can_sleep for node in nodes):
        return gpu_idle_w
    return sum(node.sleep_w - node.idle_w for node in nodes) / sum(node.gpus for node in nodes)


class Sleepers:
    """The nodes of one pool that can sleep.

    Args:
        nodes: The pool's nodes, numbered as in its `Occupancy`.
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
        # since when each node stands empty, and since when it sleeps; nan if it does not
        self._empty_since_s = np.full(len(nodes), np.nan)
        self._asleep_since_s = np.full(len(nodes), np.nan)
        self._ready_s: dict[str, float] = {}
        # stretches of standing empty that are over: when each began, and how many seconds of it the node slept
        self._stretches: deque[tuple[float, float]] = deque(maxlen=STRETCHES)
        self._due_s = math.inf

    def __bool__(self) -> bool:
        return self._any

    def wake(self, occupancy: Occupancy, gpus: int, now_s: float) -> list[str]:
        """Wake nodes, the first ones first, until ``gpus`` are free; which ones."""
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
        """Seconds until all nodes of an owner are ready."""
        ready_s = (self._ready_s.get(share.node, 0.0) for share in occupancy.placement(owner))
        return max(0.0, max(ready_s, default=0.0) - now_s)

    def sleep(self, occupancy: Occupancy, now_s: float) -> list[str]:
        """Put to sleep what has stood empty for long enough; which ones. To be called at every decision."""
        status = occupancy.status()
        asleep = status == ASLEEP
        empty = (status == UP) & (occupancy.room() == occupancy.pool.size) & self._can
        slept = ~np.isnan(self._asleep_since_s)
        for i in np.flatnonzero(~np.isnan(self._empty_since_s) & ~np.where(slept, asleep, empty)).tolist():
            if status[i] == UP and not slept[i]:
                self._stretch_ends(i, now_s)
            else:  # a node that failed or drains tells nothing of when it would have been needed
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
        """When the next empty node is to sleep, as of the last decision; ``inf`` if none is waiting to."""
        return self._due_s

    def expected_sleep_s(self, now_s: float) -> float:
        """Seconds that a node which is emptied now is expected to sleep before it is needed.

        The mean over the last `STRETCHES` stretches to begin in which a node of the pool stood empty: none where it
        was used again before it slept, so far where it still sleeps (one that is awake and may yet sleep is left
        out). One more, of the nodes' mean patience, stands for knowing nothing.
        """
        asleep = np.flatnonzero(~np.isnan(self._asleep_since_s))
        so_far_s = now_s - self._asleep_since_s[asleep]
        still = zip(self._empty_since_s[asleep].tolist(), so_far_s.tolist(), strict=True)
        recent = sorted([*self._stretches, *still])[-STRETCHES:]
        total_s: float = sum(slept_s for _, slept_s in recent)
        return (self._prior_s + total_s) / (1 + len(recent))

    def gains(self, energy_price: float, now_s: float) -> FloatArray:
        """What the next sleep of each node is expected to be worth, ``[N]`` weighted seconds.

        Watts saved over the expected sleep, less the joules of waking (λ_E makes them seconds), less the wait of
        whoever it is woken for. 0 where it cannot sleep.
        """
        joules = self._saved_w * self.expected_sleep_s(now_s) - self._awake_w * self._wake_s
        return np.where(self._can, energy_price * joules - self._wake_s, 0.0)

    def _stretch_ends(self, i: int, now_s: float) -> None:
        """A node that stood empty is used again: remember how long it slept."""
        slept_s = now_s - float(self._asleep_since_s[i])
        self._stretches.append((float(self._empty_since_s[i]), 0.0 if math.isnan(slept_s) else slept_s))
        self._empty_since_s[i] = self._asleep_since_s[i] = np.nan
