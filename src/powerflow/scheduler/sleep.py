"""Which empty nodes are switched off, and which are woken when room is needed.

A node that can sleep is put to sleep once it has stood empty for so long that the joules it wasted equal what a wake
costs. Without knowing when it will be needed again no rule does better in the worst case: it spends at most twice
what one that knows would (the ski-rental argument; Karlin et al., Competitive snoopy caching, 1988).
"""

from __future__ import annotations

import math

from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.packing import ASLEEP, UP
from powerflow.cluster.spec import Node


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
        self._patience_s = {i: patience_s(node, gpu_idle_w) for i, node in enumerate(nodes) if node.can_sleep}
        self._empty_since_s: dict[int, float] = {}
        self._ready_s: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._patience_s)

    def wake(self, occupancy: Occupancy, gpus: int, now_s: float) -> list[str]:
        """Wake as few nodes as needed, so that ``gpus`` are free; which ones."""
        woken = []
        status = occupancy.status()
        for i in self._patience_s:
            if occupancy.free >= gpus:
                break
            if status[i] == ASLEEP:
                node = self._nodes[i]
                occupancy.wake(node.name)
                self._ready_s[node.name] = now_s + node.wake_s
                woken.append(node.name)
        return woken

    def wait_s(self, occupancy: Occupancy, owner: int, now_s: float) -> float:
        """Seconds until all nodes of an owner are ready."""
        ready_s = (self._ready_s.get(share.node, 0.0) for share in occupancy.placement(owner))
        return max(0.0, max(ready_s, default=0.0) - now_s)

    def sleep(self, occupancy: Occupancy, now_s: float) -> list[str]:
        """Put to sleep what has stood empty for long enough; which ones."""
        status, room = occupancy.status(), occupancy.room()
        asleep = []
        for i, patience in self._patience_s.items():
            node = self._nodes[i]
            if status[i] != UP or room[i] < node.gpus:
                self._empty_since_s.pop(i, None)
                continue
            since_s = self._empty_since_s.setdefault(i, now_s)
            if now_s >= since_s + patience:
                occupancy.sleep(node.name)
                del self._empty_since_s[i]
                asleep.append(node.name)
        return asleep

    def due_s(self) -> float:
        """When the next empty node is to sleep; ``inf`` if none is waiting to."""
        times = (since_s + self._patience_s[i] for i, since_s in self._empty_since_s.items())
        return min(times, default=math.inf)
