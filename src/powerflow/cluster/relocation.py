"""Where a job that leaves its node would go: the node that `packing` would choose, found without placing anybody.

Kernels that think through several moves before they make one keep the nodes' room in an array of their own, and ask
here. What they foresee is what `Occupancy.allocate_many` then does.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import IntArray
from powerflow.cluster.packing import UP, PackedPool
from powerflow.kernel import array_kernel


@array_kernel
def rooms(pool: PackedPool) -> IntArray:
    """``[N]`` free GPUs of each node; -1 where nobody may go."""
    room = np.empty(len(pool.size), np.int64)
    for node in range(len(room)):
        room[node] = pool.room[node] if pool.status[node] == UP else -1
    return room


@array_kernel
def home(pool: PackedPool, room: IntArray, gpus: int, may_open: bool) -> int:
    """Node in use with the least room that is enough for ``gpus`` GPUs; else the smallest empty one; else -1.

    ``room`` is as from `rooms`, after the moves made up so far. Empty nodes count only if ``may_open``.
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
