"""Move jobs that are spread over too many nodes to a single node, if the gain is worth the pauses.

A job that is spread over nodes synchronises over the network, which can slow it down several times. It moves to one
node as soon as a node has room, or can get room by moving smaller jobs to other nodes. Gain and cost are compared in
GPU-seconds. The gain is the time that the job saves while it is expected to keep its GPUs. The cost is the pauses of
all jobs that move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.packed_pool import NOBODY, PackedPool
from powerflow.cluster.relocation import home, leave_node, rooms
from powerflow.kernel import array_kernel
from powerflow.units import HOUR_S

STAY_S = HOUR_S  # longest time that a job is expected to keep its GPUs
MARGIN = 2.0  # a move must gain more than twice its cost
NODES_TRIED = 4
JOBS_TRIED = 8


@dataclass(frozen=True, slots=True)
class Spread:
    """A job on more nodes than it needs.

    Attributes:
        owner: Row number of the job in the scheduler's ledger.
        gpus: Number of GPUs that the job holds, at most those of one node.
        speedup: Part of its time (0 to 1) that the job would save on one node.
        stay_s: Seconds for which the job would otherwise stay spread.
    """

    owner: int
    gpus: int
    speedup: float
    stay_s: float

    def gain_gpu_s(self) -> float:
        """Return the GPU-seconds that the job gains if it moves to one node."""
        return self.gpus * self.speedup * min(self.stay_s, STAY_S)


def consolidate(occupancy: Occupancy, jobs: Sequence[Spread], pause_gpu_s: FloatArray) -> list[int]:
    """Move spread jobs to single nodes, those with the largest gain first. This changes the occupancy.

    Args:
        occupancy: Current placement of the pool.
        jobs: Jobs on more nodes than they need.
        pause_gpu_s: Cost of moving each job, in GPU-seconds, by its row number; 0 for a job that moves anyway.

    Returns:
        Row numbers of the jobs that moved, each once. Each of these jobs is now on one node.
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
        # the job is the largest, so it gets the one node that now has room; the others get other nodes
        occupancy.rearrange(np.array(together), np.array(counts))
        pause_gpu_s[together] = 0.0  # a job pauses once, however often this plan moves it
        moved |= dict.fromkeys(together)
    return list(moved)


@array_kernel
def who_leaves(
    pool: PackedPool, owner: int, gpus: int, pause_gpu_s: FloatArray, affordable: float, leavers: IntArray
) -> int:
    """Find smaller jobs that can move to other nodes, so that a given job fits on their node.

    Nodes that miss the fewest free GPUs are tried first. On a node, larger jobs leave first, but none with more GPUs
    than are missing.

    Args:
        pool: The pool's arrays.
        owner: Row number of the job that shall move to one node.
        gpus: Number of GPUs that this job holds and needs on one node.
        pause_gpu_s: Cost of moving each job, by its row number.
        affordable: Largest allowed cost of moving all leaving jobs together.
        leavers: ``[64]`` output: row numbers of the jobs that leave.

    Returns:
        Number of jobs that leave; 0 if a node has room already; -1 if there is no way with an allowed cost.
    """
    room = rooms(pool)  # free GPUs after the job itself has left
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
            count = leave_node(pool, i, gpus - 1, short, True, room, leavers)
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
