"""Predict which node `packing` would choose for a job that moves, without placing it.

Kernels that plan several moves before they make one keep the free GPUs of the nodes in an array of their own, and
search it with `home`. The result is the same as that of `Occupancy.allocate_many`.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import IntArray
from powerflow.cluster.packing import UP, PackedPool
from powerflow.kernel import array_kernel


@array_kernel
def rooms(pool: PackedPool) -> IntArray:
    """Return the number of free GPUs of each node; -1 for nodes that take no jobs."""
    room = np.empty(len(pool.size), np.int64)
    for node in range(len(room)):
        room[node] = pool.room[node] if pool.status[node] == UP else -1
    return room


@array_kernel
def home(pool: PackedPool, room: IntArray, gpus: int, may_open: bool) -> int:
    """Return the node in use with the smallest sufficient room; else the smallest empty node; else -1.

    ``room`` comes from `rooms` and includes the moves planned so far. Empty nodes are considered only if ``may_open``.
    """
    best, best_open = -1, -1
    for node in range(len(room)):
        if room[node] < gpus:
            continue
        if room[node] < pool.size[node]:
            if best < 0 or room[node] < room[best]:
                best = node
        elif may_open and (best_open < 0 or room[node] < room[best_open]):
            best_open = node
    return best if best >= 0 else best_open
