"""Check the arrays of a pool against owners of GPUs, GPUs out of service, and status of nodes."""

from __future__ import annotations

import numpy as np

from powerflow.cluster.packed_pool import ASLEEP, NOBODY, UP, PackedPool


def check_pool(pool: PackedPool) -> None:
    """Raise AssertionError if the arrays of a pool contradict GPU owners or node status. Slow; for tests."""
    taken = pool.owner_of != NOBODY
    owners = pool.owner_of[taken]
    nodes, most = len(pool.size), (len(pool.row_len) - 1) // 2

    number = np.arange(len(pool.owner_of)) - pool.first_gpu[pool.node_of]
    out = (pool.out_mask[pool.node_of] >> number.astype(np.uint64) & np.uint64(1)).astype(np.bool_)
    size = np.bincount(pool.node_of[taken | ~out], minlength=nodes)
    _same(pool.size, size, "size")
    assert (pool.built == np.bincount(pool.node_of, minlength=nodes)).all(), "a node was built of another count"
    room = size - np.bincount(pool.node_of[taken], minlength=nodes)
    _same(pool.room, room, "room")
    bits = np.zeros(nodes, np.uint64)
    free = np.flatnonzero(~taken & ~out)
    within = (free - pool.first_gpu[pool.node_of[free]]).astype(np.uint64)
    np.bitwise_or.at(bits, pool.node_of[free], np.uint64(1) << within)
    _same(pool.free_mask, bits, "free_mask")

    _same(pool.held, np.bincount(owners, minlength=len(pool.held)), "held")
    pairs = np.unique(np.stack([owners, pool.node_of[taken]]), axis=1)
    _same(pool.spread, np.bincount(pairs[0], minlength=len(pool.spread)), "spread")
    _check_chains(pool)

    rows = np.where(pool.status == UP, room + np.where((room == pool.size) & (room > 0), most, 0), 0)
    _same(pool.row_of, rows, "row_of")
    listed = np.flatnonzero(rows > 0)
    words = np.zeros_like(pool.rows)
    np.bitwise_or.at(words, (rows[listed], listed >> 6), np.uint64(1) << (listed & 63).astype(np.uint64))
    _same(pool.rows, words, "rows")
    rack_len = np.zeros_like(pool.rack_len)
    np.add.at(rack_len, (rows[listed], pool.rack_of[listed]), 1)
    _same(pool.rack_len, rack_len, "rack_len")
    _same(pool.row_len, rack_len.sum(axis=1), "row_len")

    usable = (pool.status == UP) | (pool.status == ASLEEP)
    totals = [
        room[pool.status == UP].sum(),
        pool.size[usable].sum(),
        pool.size[pool.status == ASLEEP].sum(),
        taken.sum(),
        (room < pool.size).sum(),
    ]
    _same(pool.totals, np.array(totals), "totals")
    assert (room[pool.status == ASLEEP] == pool.size[pool.status == ASLEEP]).all(), "a sleeping node has an owner"


def whole_free_nodes(pool: PackedPool) -> int:
    """Return the number of nodes that are up and on which no GPU is in use."""
    return int(pool.row_len[len(pool.row_len) // 2 + 1 :].sum())


def _check_chains(pool: PackedPool) -> None:
    """Check the chain (linked list) of GPUs of each owner.

    The chain must visit each GPU of the owner once and no other GPU, and finish one node before it goes to the next.
    """
    visited = 0
    for owner in np.flatnonzero(pool.head != NOBODY):
        gpu, path = pool.head[owner], []
        while gpu != NOBODY:
            assert pool.owner_of[gpu] == owner, f"GPU {gpu} is in the chain of owner {owner}, which does not hold it"
            path.append(pool.node_of[gpu])
            assert len(path) <= pool.held[owner], f"chain of {owner} is too long"
            gpu = pool.next_of[gpu]
        assert len(path) == pool.held[owner], f"chain of {owner} is too short"
        changes = 1 + int(np.count_nonzero(np.diff(path)))
        assert changes == pool.spread[owner], f"chain of {owner} returns to a node that it left"
        visited += len(path)
    assert visited == np.count_nonzero(pool.owner_of != NOBODY), "a GPU is in no chain"
    assert (pool.next_of[pool.owner_of == NOBODY] == NOBODY).all(), "a free GPU is in a chain"


def _same(kept: np.ndarray, recomputed: np.ndarray, name: str) -> None:
    assert np.array_equal(kept, recomputed), f"{name} is kept as {kept}, should be {recomputed}"
