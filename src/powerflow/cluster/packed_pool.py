"""Define the state of one pool as arrays for compiled kernels: nodes, GPUs, and the owners of GPUs.

Nodes that can take jobs are listed by their number of free GPUs ("room"). A node in use is in row ``room``, an empty
node in row ``most + room``, where ``most`` is the number of GPUs of the largest node. Each row is a bit set over nodes
in rack order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from powerflow.kernel import kernel

# A node's status.
UP, ASLEEP, DRAINED, FAILED = range(4)
# Entries of Pool.totals.
FREE_GPUS, UP_GPUS, ASLEEP_GPUS, HELD_GPUS, NODES_IN_USE = range(5)
NOBODY = -1

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
#: The fields of a `PackedPool` as a plain tuple: numba takes long to look up a named tuple's class at every call.
Fields = tuple[Any, ...]


class PackedPool(NamedTuple):
    """All arrays of a pool's occupancy: N nodes, G GPUs, K racks, O owners, L rows (lists of nodes with equal room)."""

    size: I32  # [N] GPUs of each node: those in service, and those out of service that are still held
    built: I32  # [N] GPUs of each node, whatever their state
    out_mask: U64  # [N] GPUs out of service
    first_gpu: I32  # [N] number of each node's first GPU
    node_of: I32  # [G] node of each GPU
    rack_of: I32  # [N] rack of each node; never falls from node to node
    rack_first: I32  # [K + 1] first node of each rack
    status: npt.NDArray[np.int8]  # [N] UP, ASLEEP, DRAINED or FAILED
    free_mask: U64  # [N] GPUs in service that are not held, whatever the node's status
    room: I32  # [N] number of GPUs in free_mask
    row_of: I32  # [N] row that lists the node; 0 if it can take nothing
    rows: U64  # [L, ceil(N/64)] bit set of the nodes in each row
    row_len: I32  # [L] nodes in each row
    rack_len: I32  # [L, K] nodes in each row by rack; row 0 stays all zero
    owner_of: I32  # [G] owner of each GPU, or NOBODY
    next_of: I32  # [G] next GPU of the same owner, or NOBODY; node by node
    head: I32  # [O] first GPU of each owner, or NOBODY
    held: I32  # [O] GPUs of each owner
    spread: I32  # [O] nodes of each owner
    totals: I64  # sums, see FREE_GPUS …


def empty_pool(sizes: Sequence[int], racks: Sequence[int], owners: int) -> PackedPool:
    """Make the arrays of a pool in which no GPU is held by a job and all nodes are up.

    This function uses no kernels, so that a controller without jobs does not load numba.

    Args:
        sizes: ``[N]`` GPUs of each node, 1 to 64.
        racks: ``[N]`` rack of each node, numbered from 0 without gaps, never falling.
        owners: Number of owners (jobs that hold GPUs) to allocate arrays for.
    """
    size = np.asarray(sizes, np.int32)
    rack_of = np.asarray(racks, np.int32)
    nodes, gpus, most = len(size), int(size.sum()), int(size.max())
    rack_count = int(rack_of[-1]) + 1
    rows = 2 * most + 1
    ones = np.array([(1 << int(n)) - 1 for n in size], np.uint64)
    row_of = most + size  # see `list_node`
    number = np.arange(nodes)
    listed = np.zeros((rows, -(-nodes // 64)), np.uint64)
    np.bitwise_or.at(listed, (row_of, number >> 6), np.uint64(1) << (number & 63).astype(np.uint64))
    rack_len = np.zeros((rows, rack_count), np.int32)
    np.add.at(rack_len, (row_of, rack_of), 1)
    return PackedPool(
        size=size,
        built=size.copy(),
        out_mask=np.zeros(nodes, np.uint64),
        first_gpu=(np.cumsum(size) - size).astype(np.int32),
        node_of=np.repeat(np.arange(nodes, dtype=np.int32), size),
        rack_of=rack_of,
        rack_first=np.searchsorted(rack_of, np.arange(rack_count + 1)).astype(np.int32),
        status=np.full(nodes, UP, np.int8),
        free_mask=ones,
        room=size.copy(),
        row_of=row_of.astype(np.int32),
        rows=listed,
        row_len=np.bincount(row_of, minlength=rows).astype(np.int32),
        rack_len=rack_len,
        owner_of=np.full(gpus, NOBODY, np.int32),
        next_of=np.full(gpus, NOBODY, np.int32),
        head=np.full(owners, NOBODY, np.int32),
        held=np.zeros(owners, np.int32),
        spread=np.zeros(owners, np.int32),
        totals=np.array([gpus, gpus, 0, 0, 0], np.int64),
    )


@kernel
def list_node(pool: PackedPool, node: int) -> None:
    """Move a node to the row (list of nodes) that belongs to its current status and number of free GPUs."""
    new = 0
    if pool.status[node] == UP:
        new = pool.room[node]
        if new > 0 and new == pool.size[node]:
            new += (len(pool.row_len) - 1) // 2
    old = pool.row_of[node]
    if new == old:
        return
    bit = np.uint64(1) << np.uint64(node & 63)
    rack = pool.rack_of[node]
    if old > 0:
        pool.rows[old, node >> 6] &= ~bit
        pool.row_len[old] -= 1
        pool.rack_len[old, rack] -= 1
    if new > 0:
        pool.rows[new, node >> 6] |= bit
        pool.row_len[new] += 1
        pool.rack_len[new, rack] += 1
    pool.row_of[node] = new


@kernel
def set_status(pool: PackedPool, node: int, status: int) -> None:
    """Change a node's status, and all sums of GPUs that depend on it."""
    _count(pool, node, -1)
    pool.status[node] = status
    _count(pool, node, 1)
    list_node(pool, node)


@kernel
def _count(pool: PackedPool, node: int, sign: int) -> None:
    """Add a node's GPUs to the sums that belong to its status (``sign`` 1), or subtract them (-1)."""
    status = pool.status[node]
    if status == UP:
        pool.totals[FREE_GPUS] += sign * pool.room[node]
    if status in (UP, ASLEEP):
        pool.totals[UP_GPUS] += sign * pool.size[node]
    if status == ASLEEP:
        pool.totals[ASLEEP_GPUS] += sign * pool.size[node]


@kernel
def resize(pool: PackedPool, node: int, by: int) -> None:
    """Change the number of GPUs of a node, and the sums of GPUs on nodes that are up or asleep."""
    status = pool.status[node]
    pool.size[node] += by
    if status in (UP, ASLEEP):
        pool.totals[UP_GPUS] += by
    if status == ASLEEP:
        pool.totals[ASLEEP_GPUS] += by


@kernel
def take_out(pool: PackedPool, node: int, gpu: int) -> None:
    """Take a GPU out of service, given its number in the node.

    A GPU that a job holds leaves service when it is released.
    """
    bit = np.uint64(1) << np.uint64(gpu)
    if pool.out_mask[node] & bit:
        return
    pool.out_mask[node] |= bit
    if pool.free_mask[node] & bit:
        _change_room(pool, node, bit, -1)


@kernel
def put_in(pool: PackedPool, node: int, gpu: int) -> None:
    """Return a GPU to service, given its node and its number in the node."""
    bit = np.uint64(1) << np.uint64(gpu)
    if not pool.out_mask[node] & bit:
        return
    pool.out_mask[node] &= ~bit
    if pool.owner_of[pool.first_gpu[node] + gpu] == NOBODY:
        _change_room(pool, node, bit, 1)


@kernel
def _change_room(pool: PackedPool, node: int, bit: np.uint64, by: int) -> None:
    """Add a GPU that no job holds to its node's free GPUs (``by`` 1), or remove it from them (-1)."""
    pool.free_mask[node] ^= bit
    pool.room[node] += by
    resize(pool, node, by)
    if pool.status[node] == UP:
        pool.totals[FREE_GPUS] += by
    list_node(pool, node)
