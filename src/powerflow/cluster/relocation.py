"""Predict which node `packing` would choose for a job that moves, without placing the job.

A kernel plans several moves before it makes one. It keeps the number of free GPUs of each node in an array of its own,
and searches this array with `home`. The result is the same as that of `Occupancy.allocate_many`.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import IntArray
from powerflow.cluster.packed_pool import NOBODY, UP, PackedPool
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
    """Return the node for a job of ``gpus`` GPUs: the node in use with the smallest sufficient number of free GPUs.

    If there is none and ``may_open`` is True: the smallest empty node that is large enough. Otherwise -1. ``room`` is
    the number of free GPUs of each node, from `rooms`, after the moves planned so far.
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


@array_kernel
def leave_node(
    pool: PackedPool, node: int, largest: int, total: int, may_open: bool, room: IntArray, leavers: IntArray
) -> int:
    """Find jobs that are only on ``node``, each fit on another node, and together hold ``total`` GPUs.

    Larger jobs leave first, none with more than ``largest`` GPUs. ``room`` is the same before and after the call.

    Args:
        pool: The pool's arrays.
        node: The node that the jobs leave.
        largest: Largest number of GPUs of a leaving job.
        total: Number of GPUs that must become free.
        may_open: True if jobs may go to empty nodes.
        room: ``[N]`` free GPUs of each node, from `rooms`, after the moves planned so far.
        leavers: ``[64]`` output: row numbers of the jobs that leave.

    Returns:
        Number of jobs that leave; -1 if there is no such choice of jobs.
    """
    count = 0
    left = total
    homes = np.empty(64, np.int64)
    kept = room[node]
    room[node] = -1  # its own jobs do not go back to it
    first, last = pool.first_gpu[node], pool.first_gpu[node] + pool.built[node]
    for held in range(min(largest, total), 0, -1):
        for gpu in range(first, last):
            other = pool.owner_of[gpu]
            if left < held or other == NOBODY or pool.held[other] != held or pool.spread[other] != 1:
                continue
            if pool.head[other] != gpu:  # count each job once
                continue
            there = home(pool, room, held, may_open)
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
