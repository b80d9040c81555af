"""Track which owner holds which GPUs of one pool.

A pool is all nodes of one GPU type. An owner is a job, given by its row number in the scheduler's table of active jobs
(the ledger). The number is used again after the job has ended. `powerflow.cluster.packing` chooses nodes and racks,
`powerflow.cluster.buddy` the GPUs of a node; this module checks every request before it changes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from powerflow.arrays import BoolArray, IntArray
from powerflow.cluster import packed_pool, packing
from powerflow.cluster.packed_pool import ASLEEP, DRAINED, FAILED, UP
from powerflow.cluster.spec import Node


class NodeShare(NamedTuple):
    """GPUs of one node that one job holds: the node's name, and the GPUs' numbers in the node, ascending."""

    node: str
    gpus: tuple[int, ...]


#: All GPUs of one owner, node by node in the pool's order.
Placement = tuple[NodeShare, ...]


class Occupancy:
    """Current placement in one pool: the owner of each GPU, and the status of each node.

    An owner is a job, given by its row number in the scheduler's ledger. Where the next owner is placed depends only on
    the present state, not on earlier states. ``copy.deepcopy`` and pickle work.

    A node is *up*, *asleep* (empty and switched off), *drained* (takes no new owners; present ones may stay) or
    *failed*. A node drained while asleep stays asleep when it recovers, because nothing has switched it on. Owners keep
    their GPUs on a failed or drained node until the scheduler releases them. After that, these GPUs are not given out
    before `recover`. A single GPU can also be *out of service* (`fail_gpu`), on a node of any status.

    Args:
        nodes: Nodes of one GPU type, at least one. They are sorted by rack, racks in order of first appearance.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        if not nodes:
            raise ValueError("a pool has at least one node")
        racks: dict[str, int] = {}
        for node in nodes:
            racks.setdefault(node.rack, len(racks))
        #: The pool's nodes; a node's number is its position here.
        self.nodes: tuple[Node, ...] = tuple(sorted(nodes, key=lambda node: racks[node.rack]))
        self._number = {node.name: i for i, node in enumerate(self.nodes)}
        if len(self._number) != len(self.nodes):
            raise ValueError("two nodes have the same name")
        sizes = [node.gpus for node in self.nodes]
        self._pool = packed_pool.empty_pool(sizes, [racks[node.rack] for node in self.nodes], owners=64)
        largest_first = np.cumsum(sorted(sizes, reverse=True))
        #: ``[G + 1]`` fewest nodes that can hold a number of GPUs.
        self._fewest = np.searchsorted(largest_first, np.arange(largest_first[-1] + 1)).astype(np.int32) + 1
        self._fewest[0] = 0
        self._drained_asleep: set[str] = set()

    def rebuilt(self, nodes: Sequence[Node]) -> Occupancy:
        """Return the occupancy of other nodes. Nodes that are in both keep their status, and owners keep their GPUs.

        Raises:
            ValueError: An owner holds GPUs that the new nodes do not have.
        """
        made = Occupancy(nodes)
        sizes = {node.name: node.gpus for node in nodes}
        for owner in np.flatnonzero(self._pool.held).tolist():
            placement = self.placement(owner)
            if any(share.gpus[-1] >= sizes.get(share.node, 0) for share in placement):
                raise ValueError(f"owner {owner} holds GPUs that would be gone: {placement}")
            made.put(owner, placement)
        for node, gpu in self.out_of_service():
            if gpu < sizes.get(node, 0):
                made.fail_gpu(node, gpu)
        for old, status in zip(self.nodes, self._pool.status.tolist(), strict=True):
            if old.name in sizes:
                made._set_status(old.name, status)
        made._drained_asleep = self._drained_asleep & sizes.keys()
        return made

    # ---- totals ----

    @property
    def up(self) -> int:
        """Number of GPUs that a plan may use: in service, on nodes that are up or asleep.

        GPUs that owners still hold on drained nodes are not counted. A GPU that was taken out of service while an owner
        holds it is counted until the owner releases it.
        """
        return int(self._pool.totals[packed_pool.UP_GPUS])

    @property
    def free(self) -> int:
        """Number of GPUs that can be given out now: GPUs that no job holds, on nodes that are up and awake."""
        return int(self._pool.totals[packed_pool.FREE_GPUS])

    @property
    def asleep(self) -> int:
        """Number of GPUs of the pool on sleeping nodes."""
        return int(self._pool.totals[packed_pool.ASLEEP_GPUS])

    @property
    def held(self) -> int:
        """Number of GPUs of the pool that jobs hold, on nodes of any status."""
        return int(self._pool.totals[packed_pool.HELD_GPUS])

    def nodes_in_use(self) -> int:
        """Return the number of nodes, of any status, on which jobs hold at least one GPU."""
        return int(self._pool.totals[packed_pool.NODES_IN_USE])

    def spare_nodes(self) -> int:
        """Return the number of nodes in use, minus the fewest nodes that could hold the same number of GPUs."""
        return self.nodes_in_use() - int(self._fewest[self.held])

    def room(self) -> IntArray:
        """Return for each node the number of its GPUs that no job holds, for nodes of any status."""
        return self._pool.room.astype(np.int64)

    @property
    def pool(self) -> packed_pool.PackedPool:
        """The pool's arrays, for the kernels of this package; other code must not change them."""
        return self._pool

    def status(self) -> npt.NDArray[np.int8]:
        """Return an array with the status of each node: `packed_pool.UP`, `ASLEEP`, `DRAINED` or `FAILED`."""
        return self._pool.status.copy()

    # ---- owners ----

    def allocate(self, owner: int, gpus: int) -> None:
        """Give ``gpus`` ≥ 1 free GPUs to an owner (number of a job) that holds none.

        Raises:
            ValueError: The owner already holds GPUs, or fewer than ``gpus`` are free. In both cases nothing is changed.
        """
        self.allocate_many([owner], [gpus])

    def allocate_many(self, owners: Sequence[int] | IntArray, gpus: Sequence[int] | IntArray) -> None:
        """Give GPUs to several owners, or to none of them if that is not possible.

        The largest requests are placed first, equal ones in the given order. An owner that no single node can hold gets
        several nodes, so it is sufficient that enough GPUs are free in total.

        Args:
            owners: ``[J]`` different owners (numbers of jobs) that hold nothing.
            gpus: ``[J]`` GPUs for each owner, ≥ 1.

        Raises:
            ValueError: An owner is given twice or holds GPUs, a count is below 1, or the sum exceeds the free GPUs.
                Then nothing is changed.
        """
        who, counts = np.asarray(owners, np.int64), np.asarray(gpus, np.int64)
        if len(who) == 0:
            return
        self._make_room(int(who.max()))
        match packing.refusal(self._pool.held, who, counts, self.free):
            case packing.IMPOSSIBLE:
                raise ValueError("owners are numbers ≥ 0, and each gets at least 1 GPU")
            case packing.TOO_MANY:
                raise ValueError(f"{counts.sum()} GPUs requested, but only {self.free} are free")
            case packing.HOLDS_ALREADY:
                holding = who[self._pool.held[who] > 0]
                raise ValueError(f"owner {holding[0]} already holds GPUs" if len(holding) else "an owner is repeated")
        if len(who) > 1:
            order = np.argsort(-counts, kind="stable")
            who, counts = who[order], counts[order]
        packing.place_many(self._pool, who, counts)

    def put(self, owner: int, placement: Placement) -> None:
        """Give exactly these GPUs to an owner (number of a job), to adopt a running job or to undo a move.

        Raises:
            ValueError: The owner holds GPUs already, or one of the placement's GPUs is held, is on a sleeping node, or
                is unknown. Then nothing is changed.
        """
        self._make_room(owner)
        nodes = np.array([self._number[share.node] for share in placement], np.int64)
        masks = np.array([sum(1 << gpu for gpu in set(share.gpus)) for share in placement], np.uint64)
        free = np.where(self._pool.status[nodes] == ASLEEP, np.uint64(0), self._pool.free_mask[nodes])
        if self.gpus_of(owner) or len(np.unique(nodes)) != len(nodes) or not masks.all() or (masks & ~free).any():
            raise ValueError(f"owner {owner} cannot be placed on {placement}: it holds GPUs, or these are not free")
        packing.put(self._pool, owner, nodes, masks)

    def release(self, owner: int) -> None:
        """Release all GPUs of an owner (number of a job); nothing happens if the owner holds none."""
        if owner < len(self._pool.head) and self._pool.held[owner]:
            packing.release(tuple(self._pool), owner)

    def release_many(self, owners: Sequence[int] | IntArray) -> None:
        """Release all GPUs of several owners (numbers of jobs). Nothing happens for owners that hold none."""
        who = np.asarray(owners, np.int64)
        packing.remove_many(self._pool, who[(who >= 0) & (who < len(self._pool.head))])

    def rearrange(self, owners: IntArray, gpus: IntArray) -> BoolArray:
        """Release all GPUs of several owners and give each owner a new number of GPUs, the largest number first.

        The result is the same as after `release_many` and `allocate_many`. One call is faster, and every plan makes it.

        Args:
            owners: ``[J]`` different owners (numbers of jobs).
            gpus: ``[J]`` GPUs for each owner; 0 for none.

        Returns:
            ``[J]`` True for each owner that is packed (`is_packed`).

        Raises:
            ValueError: The sum exceeds the GPUs that are free after the release. Then these owners hold nothing.
        """
        if len(owners) > 1 or owners[0] >= len(self._pool.head):
            self._make_room(max(owners.tolist()))
        order = (-gpus).argsort(kind="stable") if len(gpus) > 1 else np.zeros(1, np.int64)
        packed = np.empty(len(gpus), np.bool_)
        if not packing.rearrange(tuple(self._pool), owners, gpus, order, self._fewest, packed):
            raise ValueError(f"{gpus.sum()} GPUs requested, but only {self.free} are free")
        return packed

    def gpus_of(self, owner: int) -> int:
        """Return the number of GPUs that an owner (number of a job) holds."""
        return int(self._pool.held[owner]) if owner < len(self._pool.held) else 0

    def nodes_of(self, owner: int) -> int:
        """Return the number of nodes on which an owner (number of a job) holds GPUs."""
        return int(self._pool.spread[owner]) if owner < len(self._pool.spread) else 0

    def is_packed(self, owner: int) -> bool:
        """Return True if an owner's GPUs are on the fewest nodes that could hold them if all nodes were empty.

        The owner is given by its job's row number in the scheduler's ledger.
        """
        return bool(self._fewest[self.gpus_of(owner)] == self.nodes_of(owner))

    def packed_many(self, owners: Sequence[int] | IntArray) -> BoolArray:
        """Return for each of several owners (numbers of jobs) if it is packed, as an array; see `is_packed`."""
        who = np.asarray(owners, np.int64)
        if len(who):
            self._make_room(int(who.max()))
        packed: BoolArray = self._fewest[self._pool.held[who]] == self._pool.spread[who]
        return packed

    def placement(self, owner: int) -> Placement:
        """Return the GPUs that an owner (number of a job) holds, node by node; empty if the owner holds none."""
        pool = self._pool
        shares: dict[int, list[int]] = {}
        gpu = int(pool.head[owner]) if owner < len(pool.head) else packed_pool.NOBODY
        while gpu != packed_pool.NOBODY:
            node = int(pool.node_of[gpu])
            shares.setdefault(node, []).append(gpu - int(pool.first_gpu[node]))
            gpu = int(pool.next_of[gpu])
        return tuple(NodeShare(self.nodes[node].name, tuple(sorted(shares[node]))) for node in sorted(shares))

    def drained_nodes(self, owner: int) -> tuple[str, ...]:
        """Return the names of the drained nodes on which an owner (number of a job) holds GPUs."""
        return tuple(share.node for share in self.placement(owner) if self.status_of(share.node) == DRAINED)

    # ---- nodes, by name; repeating a call changes nothing ----

    def fail(self, node: str) -> IntArray:
        """Mark a node as failed, and return the owners (numbers of jobs) that hold GPUs on the node, ascending.

        These owners keep all their GPUs, on this node and on others, until the scheduler releases them.
        """
        self._set_status(node, FAILED)
        self._drained_asleep.discard(node)
        return self.owners_on(node)

    def drain(self, node: str) -> IntArray:
        """Stop giving out GPUs of a node, and return the owners (numbers of jobs) on the node, which may stay.

        A failed node stays failed.
        """
        status = self.status_of(node)
        if status == ASLEEP:
            self._drained_asleep.add(node)
        if status != FAILED:
            self._set_status(node, DRAINED)
        return self.owners_on(node)

    def recover(self, node: str) -> None:
        """Mark a failed or drained node as up. A node that was drained while asleep stays asleep."""
        if self.status_of(node) in (FAILED, DRAINED):
            self._set_status(node, ASLEEP if node in self._drained_asleep else UP)
            self._drained_asleep.discard(node)

    # ---- single GPUs, by node and number in it; repeating a call changes nothing ----

    def fail_gpu(self, node: str, gpu: int) -> IntArray:
        """Take a GPU out of service until `recover_gpu`; return the owner (number of a job) that holds it, if any.

        The owner keeps all its GPUs until the scheduler releases them.

        Raises:
            ValueError: The node or the GPU does not exist.
        """
        number, at = self._numbers_of(node, gpu)
        packed_pool.take_out(self._pool, number, gpu)
        owner = self._pool.owner_of[at]
        return np.array([owner] if owner != packed_pool.NOBODY else [], np.int64)

    def recover_gpu(self, node: str, gpu: int) -> None:
        """Return a GPU to service.

        Raises:
            ValueError: The node or the GPU does not exist.
        """
        packed_pool.put_in(self._pool, self._numbers_of(node, gpu)[0], gpu)

    def out_of_service(self) -> list[tuple[str, int]]:
        """Return the GPUs that are out of service, each as (name of the node, number in the node)."""
        masks = zip(self.nodes, self._pool.out_mask.tolist(), strict=True)
        return [(node.name, gpu) for node, mask in masks for gpu in range(node.gpus) if mask >> gpu & 1]

    def _numbers_of(self, node: str, gpu: int) -> tuple[int, int]:
        """Return the number of a node in the pool, and the number of one of its GPUs in the pool."""
        number = self._number.get(node)
        if number is None or not 0 <= gpu < self.nodes[number].gpus:
            raise ValueError(f"there is no GPU {gpu} in a node {node}")
        return number, int(self._pool.first_gpu[number]) + gpu

    def sleep(self, node: str) -> None:
        """Put an empty node to sleep.

        Raises:
            ValueError: An owner holds GPUs on the node, or the node is failed or drained.
        """
        number = self._number[node]
        if self.status_of(node) in (FAILED, DRAINED) or self._pool.room[number] < self._pool.size[number]:
            raise ValueError(f"{node} is not up, or not empty")
        self._set_status(node, ASLEEP)

    def wake(self, node: str) -> None:
        """Mark a sleeping node as up; other nodes do not change."""
        if self.status_of(node) == ASLEEP:
            self._set_status(node, UP)

    def status_of(self, node: str) -> int:
        """Return the status of one node: `packed_pool.UP`, `ASLEEP`, `DRAINED` or `FAILED`."""
        return int(self._pool.status[self._number[node]])

    def owners_on(self, node: str) -> IntArray:
        """Return the owners (numbers of jobs) that hold GPUs on a node, ascending."""
        number = self._number[node]
        first = int(self._pool.first_gpu[number])
        owners = np.unique(self._pool.owner_of[first : first + int(self._pool.built[number])])
        on_it: IntArray = owners[owners != packed_pool.NOBODY].astype(np.int64)
        return on_it

    # ---- internal ----

    def _set_status(self, node: str, status: int) -> None:
        packed_pool.set_status(self._pool, self._number[node], status)

    def _make_room(self, owner: int) -> None:
        """Extend the arrays with one entry per owner (number of a job), so that they have one for ``owner``."""
        pool = self._pool
        more = max(owner + 1, 2 * len(pool.head)) - len(pool.head)
        if owner >= len(pool.head):
            self._pool = pool._replace(
                head=np.concatenate([pool.head, np.full(more, packed_pool.NOBODY, np.int32)]),
                held=np.concatenate([pool.held, np.zeros(more, np.int32)]),
                spread=np.concatenate([pool.spread, np.zeros(more, np.int32)]),
            )
