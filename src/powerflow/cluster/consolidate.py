"""Bring a job that stands on more nodes than it needs together again, if that is worth the pauses it costs.

A job spread over nodes synchronises over the network, which can slow it several times. It is moved to one node as
soon as one has room, or as soon as smaller jobs that stand there can be moved elsewhere. Both sides are counted in
GPU-seconds: what the job gains over the time it is expected to stay, what the pauses of all that move cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.packing import NOBODY, PackedPool
from powerflow.cluster.relocation import home, rooms
from powerflow.kernel import array_kernel
from powerflow.units import HOUR_S

STAY_S = HOUR_S  # nobody is expected to keep its GPUs for longer than this
MARGIN = 2.0  # a move must gain more than twice what it costs
NODES_TRIED = 4
JOBS_TRIED = 8


@dataclass(frozen=True, slots=True)
class Spread:
    """A job on more nodes than it needs.

    Attributes:
        owner: Its slot.
        gpus: GPUs it holds, at most those of one node.
        speedup: Share of its time that it would save on one node.
        stay_s: Seconds it would go on like this.
    """

    owner: int
    gpus: int
    speedup: float
    stay_s: float

    def gain_gpu_s(self) -> float:
        """GPU-seconds it gains on one node."""
        return self.gpus * self.speedup * min(self.stay_s, STAY_S)


def consolidate(occupancy: Occupancy, jobs: Sequence[Spread], pause_gpu_s: FloatArray) -> list[int]:
    """Move jobs together, those that gain most first; the occupancy is changed.

    Args:
        occupancy: Who holds which GPUs.
        jobs: Those that stand on more nodes than they need.
        pause_gpu_s: By owner, what moving it costs in GPU-seconds; 0 for one that moves anyway.

    Returns:
        Owners that now hold other GPUs than before, each once. Each stands on one node.
    """
    moved: dict[int, None] = {}
    pause_gpu_s = pause_gpu_s.copy()
    leavers = np.empty(64, np.int64)
    for job in sorted(jobs, key=lambda job: (-job.gain_gpu_s(), job.owner))[:JOBS_TRIED]:
        affordable = job.gain_gpu_s() / MARGIN - float(pause_gpu_s[job.owner])
        if affordable <= 0.0:
            continue
        count = who_leaves(occupancy.pool, job.owner, job.gpus, pause_gpu_s, affordable, leavers)
        if count < 0:
            continue
        together = [job.owner, *leavers[:count].tolist()]
        counts = [occupancy.gpus_of(owner) for owner in together]
        # the job, which is the largest, goes to the one node that now has room for it, the others to what is left
        occupancy.rearrange(np.array(together), np.array(counts))
        pause_gpu_s[together] = 0.0  # whoever moves pauses once, however often this plan moves it
        moved |= dict.fromkeys(together)
    return list(moved)


@array_kernel
def who_leaves(
    pool: PackedPool, owner: int, gpus: int, pause_gpu_s: FloatArray, affordable: float, leavers: IntArray
) -> int:
    """Which smaller jobs must leave a node so that it has room for a job and they have room elsewhere.

    Nodes are tried by how much they are short of, the least first; on a node, the largest jobs that fit into what
    is missing leave first.

    Args:
        pool: The pool's arrays.
        owner: The job.
        gpus: GPUs it holds and needs on one node.
        pause_gpu_s: By owner, what moving it costs.
        affordable: What moving the leavers may cost together.
        leavers: ``[64]`` out.

    Returns:
        How many leave; 0 if some node has room as it is; -1 if there is no way worth it.
    """
    room = rooms(pool)  # once the job itself has left
    gpu = pool.head[owner]
    while gpu != NOBODY:
        if room[pool.node_of[gpu]] >= 0:
            room[pool.node_of[gpu]] += 1
        gpu = pool.next_of[gpu]
    if home(pool, room, gpus, True) >= 0:
        return 0
    tried = 0
    for short in range(1, gpus + 1):
        for i in range(len(room)):
            if room[i] != gpus - short or pool.size[i] < gpus:
                continue
            count = _leave_node(pool, i, gpus, short, room, leavers)
            if count > 0:
                cost = 0.0
                for k in range(count):
                    cost += pause_gpu_s[leavers[k]]
                if cost <= affordable:
                    return count
            tried += 1
            if tried == NODES_TRIED:
                return -1
    return -1


@array_kernel
def _leave_node(pool: PackedPool, node: int, gpus: int, short: int, room: IntArray, leavers: IntArray) -> int:
    """Smaller jobs that stand on ``node`` alone, hold ``short`` GPUs together and each fit one other node; or -1."""
    count = 0
    left = short
    homes = np.empty(64, np.int64)
    kept = room[node]
    room[node] = -1  # the job's own from now on
    first, last = pool.first_gpu[node], pool.first_gpu[node] + pool.built[node]
    for held in range(min(gpus - 1, short), 0, -1):
        for gpu in range(first, last):
            other = pool.owner_of[gpu]
            if left < held or other == NOBODY or pool.held[other] != held or pool.spread[other] != 1:
                continue
            if pool.head[other] != gpu:  # each is met once
                continue
            there = home(pool, room, held, True)
            if there < 0:
                continue
            leavers[count], homes[count] = other, there
            count += 1
            left -= held
            room[there] -= held
    for k in range(count):
        room[homes[k]] += pool.held[leavers[k]]
    room[node] = kept
    return count if left == 0 else -1
