"""Choose nodes for jobs by best fit: as few nodes as possible, then as few racks. The code is compiled.

The rows of a pool list its nodes by their number of free GPUs. A search through the rows, upwards from the size of a
job, finds the best fit. Nodes in use come before empty nodes. The result depends only on the current owners, never on
the history.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import BoolArray
from powerflow.cluster.buddy import choose_gpus, lowest_bit, popcount
from powerflow.cluster.packed_pool import (
    FREE_GPUS,
    HELD_GPUS,
    I32,
    I64,
    NOBODY,
    NODES_IN_USE,
    U64,
    UP,
    Fields,
    PackedPool,
    list_node,
    resize,
)
from powerflow.kernel import kernel

# Reasons why owners cannot be placed; 0 means that they can.
IMPOSSIBLE, TOO_MANY, HOLDS_ALREADY = 1, 2, 3


@kernel
def refusal(held: I32, owners: I64, gpus: I64, free: int) -> int:
    """Return 0 if owners (numbers of jobs) can be placed, else `IMPOSSIBLE`, `TOO_MANY` or `HOLDS_ALREADY`.

    Args:
        held: GPUs that each owner holds now, by number; unchanged in the end.
        owners: The owners to place, each only once; they must hold no GPUs.
        gpus: GPUs for each of them, at least 1.
        free: Number of free GPUs; the sum of ``gpus`` must not be above it.
    """
    total = 0
    for k in range(len(owners)):
        if owners[k] < 0 or gpus[k] < 1:
            return IMPOSSIBLE
        total += gpus[k]
    if total > free:
        return TOO_MANY
    fault = 0
    marked = 0
    while marked < len(owners) and fault == 0:
        if held[owners[marked]] != 0:
            fault = HOLDS_ALREADY
        else:
            held[owners[marked]] = -1  # marks the owner, to detect it a second time
            marked += 1
    for k in range(marked):
        held[owners[k]] = 0
    return fault


@kernel
def place_many(pool: PackedPool, owners: I64, gpus: I64) -> None:
    """Give GPUs to several owners (numbers of jobs), in the given order.

    The sum of their GPUs must not exceed the number of free GPUs.
    """
    for i in range(len(owners)):
        place(pool, owners[i], gpus[i])


@kernel
def place(pool: PackedPool, owner: int, gpus: int) -> None:
    """Give ``gpus`` free GPUs to an owner (number of a job) that holds none.

    1. Take whole nodes first: those with the most free GPUs, as many as fit into the request. If some racks have enough
       of these nodes, use the rack with the fewest of them; otherwise the rack with the most.
    2. The rest is smaller than the free GPUs of some node, and goes to the node that fits best.

    No other choice uses fewer nodes.
    """
    most = (len(pool.row_len) - 1) // 2
    room = most
    left = gpus
    while left > 0:
        while pool.row_len[room] == 0 and pool.row_len[most + room] == 0:
            room -= 1
        if left <= room:
            _take(pool, owner, _best_fit(pool, owner, left), left)
            return
        need = left // room
        rack = _tightest_rack(pool, room, most + room, need)
        first, end = pool.rack_first[rack], pool.rack_first[rack + 1]
        for _ in range(need):
            node = _first_in(pool, room, first, end)
            if node < 0:
                node = _first_in(pool, most + room, first, end)
            if node < 0:
                break
            _take(pool, owner, node, room)
            left -= room


@kernel
def _best_fit(pool: PackedPool, owner: int, gpus: int) -> int:
    """Return the node that fits best for ``gpus`` GPUs: in a rack where the owner has GPUs, else anywhere.

    This is the node in use with the smallest sufficient number of free GPUs, else the smallest sufficient empty node.
    Of several such empty nodes it is one in the rack with the fewest, so that whole racks stay free for large jobs.
    """
    most = (len(pool.row_len) - 1) // 2
    seen = -1
    gpu = pool.head[owner]
    while gpu != NOBODY:
        rack = pool.rack_of[pool.node_of[gpu]]
        if rack != seen:
            for row in range(gpus, 2 * most + 1):
                if (row <= most or row >= most + gpus) and pool.rack_len[row, rack] > 0:
                    return _first_in(pool, row, pool.rack_first[rack], pool.rack_first[rack + 1])
            seen = rack
        gpu = pool.next_of[gpu]
    for row in range(gpus, most + 1):
        if pool.row_len[row] > 0:
            return _first_in(pool, row, 0, len(pool.size))
    for row in range(most + gpus, 2 * most + 1):
        if pool.row_len[row] > 0:
            rack = _tightest_rack(pool, 0, row, 1)
            return _first_in(pool, row, pool.rack_first[rack], pool.rack_first[rack + 1])
    return -1


@kernel
def _tightest_rack(pool: PackedPool, row: int, other_row: int, need: int) -> int:
    """Return the rack that has the fewest nodes in two lists of nodes, of the racks with at least ``need`` such nodes.

    If no rack has ``need`` nodes in the lists, it is the rack with the most. The lists are two rows of the pool's
    arrays.
    """
    one, other = pool.rack_len[row], pool.rack_len[other_row]
    # One minimum over (nodes beyond need, rack), packed in a word, compiles to vector code. Too few nodes become a huge
    # unsigned number.
    best = ~np.uint64(0)
    for rack in range(len(one)):
        beyond = np.uint32(np.int32(one[rack] + other[rack]) - np.int32(need))
        best = min(best, (np.uint64(beyond) << np.uint64(32)) | np.uint64(rack))
    if best >> np.uint64(63) == np.uint64(0):
        return int(np.int64(best & np.uint64(0xFFFFFFFF)))
    fullest = 0
    for rack in range(len(one)):
        if one[rack] + other[rack] > one[fullest] + other[fullest]:
            fullest = rack
    return fullest


@kernel
def _first_in(pool: PackedPool, row: int, first: int, end: int) -> int:
    """Return the lowest node in a row (a list of nodes) among nodes ``first`` to ``end - 1``; -1 if there is none."""
    word = first >> 6
    bits = pool.rows[row, word] & (~np.uint64(0) << np.uint64(first & 63))
    while bits == np.uint64(0):
        word += 1
        if word << 6 >= end:
            return -1
        bits = pool.rows[row, word]
    node = (word << 6) + int(lowest_bit(bits))
    return node if node < end else -1


@kernel
def put(pool: PackedPool, owner: int, nodes: I64, masks: U64) -> None:
    """Give an owner (number of a job) these free GPUs: those in ``masks[i]`` of node ``nodes[i]``, each node once.

    The owner must hold no GPUs before.
    """
    for i in range(len(nodes)):
        _give(pool, owner, nodes[i], masks[i])


@kernel
def _take(pool: PackedPool, owner: int, node: int, gpus: int) -> None:
    """Choose free GPUs of a node and give them to an owner (number of a job) that holds none on this node."""
    _give(pool, owner, node, choose_gpus(pool.free_mask[node], gpus))


@kernel
def _give(pool: PackedPool, owner: int, node: int, chosen: np.uint64) -> None:
    """Give the chosen free GPUs of a node to an owner (number of a job) that holds none on this node."""
    if pool.room[node] == pool.size[node]:
        pool.totals[NODES_IN_USE] += 1
    gpus = popcount(chosen)
    pool.free_mask[node] &= ~chosen
    pool.room[node] -= gpus
    pool.held[owner] += gpus
    pool.spread[owner] += 1
    pool.totals[HELD_GPUS] += gpus
    if pool.status[node] == UP:
        pool.totals[FREE_GPUS] -= gpus
    while chosen != np.uint64(0):
        gpu = pool.first_gpu[node] + lowest_bit(chosen)
        chosen &= chosen - np.uint64(1)
        pool.owner_of[gpu] = owner
        pool.next_of[gpu] = pool.head[owner]
        pool.head[owner] = gpu
    list_node(pool, node)


@kernel
def remove_many(pool: PackedPool, owners: I64) -> None:
    """Release all GPUs of several owners (numbers of jobs). Nothing happens for owners that hold none."""
    for i in range(len(owners)):
        remove(pool, owners[i])


@kernel
def release(fields: Fields, owner: int) -> None:
    """Release all GPUs of an owner (number of a job).

    The pool is given as a tuple, which makes calls from Python fast.
    """
    remove(PackedPool(*fields), owner)


@kernel
def rearrange(fields: Fields, owners: I64, gpus: I64, order: I64, fewest: I32, packed: BoolArray) -> bool:
    """Release all GPUs of several owners, then place the owners again in ``order``.

    Args:
        fields: The pool as a tuple of its fields.
        owners, gpus: ``[J]`` owners, and the number of GPUs that each gets; 0 for none.
        order: ``[J]`` positions in ``owners``, the largest request first.
        fewest: ``[G + 1]`` fewest nodes that can hold a number of GPUs.
        packed: ``[J]`` output: True if the owner is on the fewest nodes.

    Returns:
        False if too few GPUs are free; then the owners are released but not placed.
    """
    pool = PackedPool(*fields)
    remove_many(pool, owners)
    total = 0
    for k in range(len(gpus)):
        total += gpus[k]
    if total > pool.totals[FREE_GPUS]:
        return False
    for k in order:
        if gpus[k] > 0:
            place(pool, owners[k], gpus[k])
        packed[k] = pool.spread[owners[k]] == fewest[gpus[k]]
    return True


@kernel
def remove(pool: PackedPool, owner: int) -> None:
    """Release all GPUs of an owner (number of a job); nothing happens if the owner holds none."""
    gpu = pool.head[owner]
    while gpu != NOBODY:
        node = pool.node_of[gpu]
        before = pool.room[node]
        while gpu != NOBODY and pool.node_of[gpu] == node:
            bit = np.uint64(1) << np.uint64(gpu - pool.first_gpu[node])
            if pool.out_mask[node] & bit:
                resize(pool, node, -1)
            else:
                pool.free_mask[node] |= bit
                pool.room[node] += 1
            pool.owner_of[gpu] = NOBODY
            following = pool.next_of[gpu]
            pool.next_of[gpu] = NOBODY
            gpu = following
        if pool.status[node] == UP:
            pool.totals[FREE_GPUS] += pool.room[node] - before
        if pool.room[node] == pool.size[node]:
            pool.totals[NODES_IN_USE] -= 1
        list_node(pool, node)
    pool.totals[HELD_GPUS] -= pool.held[owner]
    pool.head[owner] = NOBODY
    pool.held[owner] = 0
    pool.spread[owner] = 0
