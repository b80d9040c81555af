"""Empty nodes so that they can sleep, if their jobs fit on other used nodes and the saving is worth the pauses.

Saving and cost are compared in weighted seconds of completion time; joules are converted by the energy price λ_E
(docs/placement.md, "When a move is worth it").
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.packed_pool import NOBODY, UP, PackedPool
from powerflow.cluster.relocation import leave_node, rooms
from powerflow.kernel import array_kernel

NODES_TRIED = 8


def empty_nodes(occupancy: Occupancy, gain: FloatArray, pause: FloatArray) -> list[int]:
    """Empty nodes while this is worth its cost, the node with the largest net gain first. This changes the occupancy.

    A node is emptied only if all its jobs are on this node alone. Each job moves to one other node in use. No job is
    split, and no empty node is used.

    Args:
        occupancy: Current placement of the pool.
        gain: ``[N]`` weighted seconds saved if the node sleeps; 0 or less if nothing is saved.
        pause: Weighted seconds that moving each job costs, by its row number; 0 for a job that moves anyway.

    Returns:
        Row numbers of the jobs that are now on another node, each once.
    """
    moved: dict[int, None] = {}
    pause = pause.copy()
    leavers = np.empty(64, np.int64)
    while (count := who_can_leave(occupancy.pool, gain, pause, leavers)) > 0:
        others = leavers[:count].tolist()
        counts = [occupancy.gpus_of(owner) for owner in others]
        occupancy.release_many(others)
        occupancy.allocate_many(others, counts)
        pause[others] = 0.0
        moved |= dict.fromkeys(others)
    return list(moved)


@array_kernel
def who_can_leave(pool: PackedPool, gain: FloatArray, pause: FloatArray, leavers: IntArray) -> int:
    """Find the node that is most worth emptying, and the jobs that must leave it.

    Args:
        pool: The pool's arrays.
        gain: ``[N]`` weighted seconds saved if the node sleeps.
        pause: Weighted seconds that moving each job costs, by its row number.
        leavers: ``[64]`` output: row numbers of the jobs that leave.

    Returns:
        Number of jobs that leave; 0 if no node is worth emptying.
    """
    room = rooms(pool)
    free = 0  # free GPUs on nodes in use
    for node in range(len(room)):
        if 0 < room[node] < pool.size[node]:
            free += room[node]
    worth = np.empty(len(room))
    for node in range(len(room)):
        used = pool.size[node] - pool.room[node]
        may = pool.status[node] == UP and gain[node] > 0.0 and 0 < used <= free - room[node]
        worth[node] = gain[node] - _pauses(pool, node, pause) if may else -np.inf
    for _ in range(NODES_TRIED):
        node = int(np.argmax(worth))
        if worth[node] <= 0.0:
            return 0
        used = pool.size[node] - pool.room[node]
        count = leave_node(pool, node, used, used, False, room, leavers)
        if count > 0:
            return count
        worth[node] = -np.inf
    return 0


@array_kernel
def _pauses(pool: PackedPool, node: int, pause: FloatArray) -> float:
    """Return the cost of moving all jobs away from a node; ``inf`` if one of them is also on other nodes."""
    cost = 0.0
    for gpu in range(pool.first_gpu[node], pool.first_gpu[node] + pool.built[node]):
        owner = pool.owner_of[gpu]
        if owner != NOBODY:
            if pool.spread[owner] > 1:
                return np.inf
            cost += pause[owner] / pool.held[owner]
    return cost
