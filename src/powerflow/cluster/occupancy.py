"""Who holds which GPUs of one pool.

A pool is all nodes of one GPU type. Owners are small whole numbers (a scheduler's job slots, used again once free).
How places are chosen is told in `powerflow.cluster.packing` (nodes and racks) and `powerflow.cluster.buddy` (GPUs of a
node); this module keeps them honest: it refuses what cannot be, and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from powerflow.arrays import IntArray
from powerflow.cluster import packing
from powerflow.cluster.packing import ASLEEP, DRAINED, FAILED, UP
from powerflow.cluster.spec import Node


class NodeShare(NamedTuple):
    """What one owner holds of one node: the node's name, and its GPUs by their number in the node, ascending."""

    node: str
    gpus: tuple[int, ...]


#: Everything one owner holds, node by node in the pool's order.
Placement = tuple[NodeShare, ...]


class Occupancy:
    """Who holds which GPUs of one pool, at one moment.

    Equal states place the next owner equally, whatever led to them. Copying (``copy.deepcopy``) and pickling work.

    A node is *up*, *asleep* (empty and switched off), *drained* (takes nobody new; who is there may stay) or *failed*.
    One that is drained in its sleep sleeps on once it has recovered: nobody has switched it on.
    GPUs on a failed or drained node stay their owners' until released; then nobody gets them before `recover`. A single
    GPU can be *out of service* as well (`fail_gpu`), on a node of any status.

    Args:
        nodes: Nodes of one GPU type, at least one; kept rack by rack, racks in order of first appearance.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        if not nodes:
            raise ValueError("a pool has at least one node")
        racks: dict[str, int] = {}
        for node in nodes:
            racks.setdefault(node.rack, len(racks))
        #: The pool's nodes; positions in it are what this room calls a node's number.
        self.nodes: tuple[Node, ...] = tuple(sorted(nodes, key=lambda node: racks[node.rack]))
        self._number = {node.name: i for i, node in enumerate(self.nodes)}
        if len(self._number) != len(self.nodes):
            raise ValueError("two nodes have one name")
        sizes = [node.gpus for node in self.nodes]
        self._pool = packing.empty_pool(sizes, [racks[node.rack] for node in self.nodes], owners=64)
        largest_first = np.cumsum(sorted(sizes, reverse=True))
        #: ``[G + 1]`` fewest nodes that can hold so many GPUs.
        self._fewest = np.searchsorted(largest_first, np.arange(largest_first[-1] + 1)).astype(np.int32) + 1
        self._fewest[0] = 0
        self._drained_asleep: set[str] = set()

    # ---- how much there is ----

    @property
    def up(self) -> int:
        """GPUs in service on nodes neither failed nor drained, awake or asleep: what a plan may count on.

        GPUs that owners still hold on drained nodes are not in it: they go when they are released. So do GPUs that are
        held while they leave service, which are in it until then.
        """
        return int(self._pool.totals[packing.UP_GPUS])

    @property
    def free(self) -> int:
        """GPUs that can be handed out at this moment: held by nobody, on nodes that are up (so not asleep)."""
        return int(self._pool.totals[packing.FREE_GPUS])

    @property
    def asleep(self) -> int:
        """GPUs on sleeping nodes."""
        return int(self._pool.totals[packing.ASLEEP_GPUS])

    @property
    def held(self) -> int:
        """GPUs that owners hold, on nodes of any status."""
        return int(self._pool.totals[packing.HELD_GPUS])

    def nodes_in_use(self) -> int:
        """Nodes of any status on which somebody holds a GPU."""
        return int(self._pool.totals[packing.NODES_IN_USE])

    def spare_nodes(self) -> int:
        """Nodes in use beyond the fewest that could hold as many GPUs, were all free to move."""
        return self.nodes_in_use() - int(self._fewest[self.held])

    def whole_free_nodes(self) -> int:
        """Nodes that are up and empty."""
        pool = self._pool
        return int(pool.row_len[len(pool.row_len) // 2 + 1 :].sum())

    def room(self) -> IntArray:
        """``[N]`` GPUs of each node of `nodes` that nobody holds, whatever the node's status."""
        return self._pool.room.astype(np.int64)

    @property
    def pool(self) -> packing.PackedPool:
        """The arrays behind it, for kernels of this room; read only."""
        return self._pool

    def status(self) -> npt.NDArray[np.int8]:
        """``[N]`` status of each node of `nodes`: `packing.UP`, `ASLEEP`, `DRAINED` or `FAILED`."""
        return self._pool.status.copy()

    # ---- owners ----

    def allocate(self, owner: int, gpus: int) -> None:
        """Give ``gpus`` ≥ 1 GPUs to an owner that holds none.

        Raises:
            ValueError: the owner already holds GPUs, or fewer are free. Nothing has changed then.
        """
        self._make_room(owner)
        if owner < 0 or gpus < 1:
            raise ValueError("owners are numbers ≥ 0, and each gets at least 1 GPU")
        if gpus > self.free:
            raise ValueError(f"{gpus} GPUs asked for, {self.free} are free")
        if self._pool.held[owner]:
            raise ValueError(f"owner {owner} already holds GPUs")
        packing.place(self._pool, owner, gpus)

    def allocate_many(self, owners: Sequence[int] | IntArray, gpus: Sequence[int] | IntArray) -> None:
        """Place several owners, largest first (equals in the order given): all of them, or none.

        Whatever fits in number fits: an owner for whom no single node has room gets several.

        Args:
            owners: ``[J]`` different owners that hold nothing.
            gpus: ``[J]`` GPUs for each, ≥ 1.

        Raises:
            ValueError: an owner stands twice or holds GPUs, a count is below 1, or Σ exceeds what is free.
                Nothing has changed then.
        """
        who, counts = np.asarray(owners, np.int64), np.asarray(gpus, np.int64)
        if len(who) == 0:
            return
        self._make_room(int(who.max()))
        match packing.refusal(self._pool.held, who, counts, self.free):
            case packing.IMPOSSIBLE:
                raise ValueError("owners are numbers ≥ 0, and each gets at least 1 GPU")
            case packing.TOO_MANY:
                raise ValueError(f"{counts.sum()} GPUs asked for, {self.free} are free")
            case packing.HOLDS_ALREADY:
                holding = who[self._pool.held[who] > 0]
                raise ValueError(f"owner {holding[0]} already holds GPUs" if len(holding) else "an owner stands twice")
        if len(who) > 1:
            order = np.argsort(-counts, kind="stable")
            who, counts = who[order], counts[order]
        packing.place_many(self._pool, who, counts)

    def put(self, owner: int, placement: Placement) -> None:
        """Give an owner that holds none exactly these GPUs: to adopt what already runs, or to take a move back.

        Raises:
            ValueError: the owner holds GPUs, or one of these is held, on a sleeping node, or not there.
                Nothing has changed then.
        """
        self._make_room(owner)
        nodes = np.array([self._number[share.node] for share in placement], np.int64)
        masks = np.array([sum(1 << gpu for gpu in set(share.gpus)) for share in placement], np.uint64)
        free = np.where(self._pool.status[nodes] == ASLEEP, np.uint64(0), self._pool.free_mask[nodes])
        if self.gpus_of(owner) or len(np.unique(nodes)) != len(nodes) or not masks.all() or (masks & ~free).any():
            raise ValueError(f"owner {owner} cannot be put on {placement}")
        packing.put(self._pool, owner, nodes, masks)

    def release(self, owner: int) -> None:
        """Take back all that an owner holds, if anything."""
        if owner < len(self._pool.head) and self._pool.held[owner]:
            packing.release(tuple(self._pool), owner)

    def release_many(self, owners: Sequence[int] | IntArray) -> None:
        """Take back all that several owners hold; those that hold nothing are left as they are."""
        who = np.asarray(owners, np.int64)
        packing.remove_many(self._pool, who[(who >= 0) & (who < len(self._pool.head))])

    def rearrange(self, owners: IntArray, gpus: IntArray) -> npt.NDArray[np.bool_]:
        """Take back all that these owners hold, and give each so many GPUs instead, largest first.

        The same as `release_many` and `allocate_many`, in one call: a plan does it at every decision.

        Args:
            owners: ``[J]`` different owners.
            gpus: ``[J]`` GPUs for each; 0 for none.

        Returns:
            ``[J]`` `is_packed` of each.

        Raises:
            ValueError: More is asked for than is then free. All of them hold nothing then.
        """
        if len(owners) > 1 or owners[0] >= len(self._pool.head):
            self._make_room(max(owners.tolist()))
        order = (-gpus).argsort(kind="stable") if len(gpus) > 1 else np.zeros(1, np.int64)
        packed = np.empty(len(gpus), np.bool_)
        if not packing.rearrange(tuple(self._pool), owners, gpus, order, self._fewest, packed):
            raise ValueError(f"{gpus.sum()} GPUs asked for, {self.free} are free")
        return packed

    def gpus_of(self, owner: int) -> int:
        """GPUs that an owner holds."""
        return int(self._pool.held[owner]) if owner < len(self._pool.held) else 0

    def nodes_of(self, owner: int) -> int:
        """Nodes that an owner holds GPUs on."""
        return int(self._pool.spread[owner]) if owner < len(self._pool.spread) else 0

    def is_packed(self, owner: int) -> bool:
        """Whether an owner is on no more nodes than its count needs on this hardware, were it empty."""
        return bool(self._fewest[self.gpus_of(owner)] == self.nodes_of(owner))

    def packed_many(self, owners: Sequence[int] | IntArray) -> npt.NDArray[np.bool_]:
        """``[J]`` `is_packed` of several owners."""
        who = np.asarray(owners, np.int64)
        if len(who):
            self._make_room(int(who.max()))
        packed: npt.NDArray[np.bool_] = self._fewest[self._pool.held[who]] == self._pool.spread[who]
        return packed

    def placement(self, owner: int) -> Placement:
        """Which GPUs of which nodes an owner holds; empty if none."""
        pool = self._pool
        shares: dict[int, list[int]] = {}
        gpu = int(pool.head[owner]) if owner < len(pool.head) else packing.NOBODY
        while gpu != packing.NOBODY:
            node = int(pool.node_of[gpu])
            shares.setdefault(node, []).append(gpu - int(pool.first_gpu[node]))
            gpu = int(pool.next_of[gpu])
        return tuple(NodeShare(self.nodes[node].name, tuple(sorted(shares[node]))) for node in sorted(shares))

    # ---- nodes, by name; saying a thing twice changes nothing ----

    def fail(self, node: str) -> IntArray:
        """A node is gone. Returns the owners that hold GPUs on it, ascending.

        They keep all their GPUs, here and elsewhere, until the scheduler releases them: a gang that lost a part has
        lost its run, but that is for the scheduler to say.
        """
        self._set_status(node, FAILED)
        self._drained_asleep.discard(node)
        return self.owners_on(node)

    def drain(self, node: str) -> IntArray:
        """A node takes nobody new. Returns the owners on it, who may stay. A failed node stays failed."""
        status = self.status_of(node)
        if status == ASLEEP:
            self._drained_asleep.add(node)
        if status != FAILED:
            self._set_status(node, DRAINED)
        return self.owners_on(node)

    def recover(self, node: str) -> None:
        """A failed or drained node is up again. A sleeping one sleeps on, also if it was drained in its sleep."""
        if self.status_of(node) in (FAILED, DRAINED):
            self._set_status(node, ASLEEP if node in self._drained_asleep else UP)
            self._drained_asleep.discard(node)

    # ---- single GPUs, by node and number there; saying a thing twice changes nothing ----

    def fail_gpu(self, node: str, gpu: int) -> IntArray:
        """A GPU is out of service: nobody gets it before `recover_gpu`. Returns its owner, if it has one.

        The owner keeps all it holds, until the scheduler releases it.

        Raises:
            ValueError: There is no such GPU.
        """
        number, at = self._numbers_of(node, gpu)
        packing.take_out(self._pool, number, gpu)
        owner = self._pool.owner_of[at]
        return np.array([owner] if owner != packing.NOBODY else [], np.int64)

    def recover_gpu(self, node: str, gpu: int) -> None:
        """A GPU is in service again.

        Raises:
            ValueError: There is no such GPU.
        """
        packing.put_in(self._pool, self._numbers_of(node, gpu)[0], gpu)

    def out_of_service(self) -> list[tuple[str, int]]:
        """GPUs that are out of service, by node and number there."""
        masks = zip(self.nodes, self._pool.out_mask.tolist(), strict=True)
        return [(node.name, gpu) for node, mask in masks for gpu in range(node.gpus) if mask >> gpu & 1]

    def _numbers_of(self, node: str, gpu: int) -> tuple[int, int]:
        """Numbers of a GPU's node in the pool, and of the GPU itself."""
        number = self._number.get(node)
        if number is None or not 0 <= gpu < self.nodes[number].gpus:
            raise ValueError(f"there is no GPU {gpu} in a node {node}")
        return number, int(self._pool.first_gpu[number]) + gpu

    def sleep(self, node: str) -> None:
        """Put an empty node to sleep.

        Raises:
            ValueError: somebody is on it, or it is failed or drained.
        """
        number = self._number[node]
        if self.status_of(node) in (FAILED, DRAINED) or self._pool.room[number] < self._pool.size[number]:
            raise ValueError(f"{node} is not both up and empty")
        self._set_status(node, ASLEEP)

    def wake(self, node: str) -> None:
        """A sleeping node is usable again; others are left as they are."""
        if self.status_of(node) == ASLEEP:
            self._set_status(node, UP)

    def status_of(self, node: str) -> int:
        """Status of one node: `packing.UP`, `ASLEEP`, `DRAINED` or `FAILED`."""
        return int(self._pool.status[self._number[node]])

    def owners_on(self, node: str) -> IntArray:
        """Owners that hold GPUs on a node, ascending."""
        number = self._number[node]
        first = int(self._pool.first_gpu[number])
        owners = np.unique(self._pool.owner_of[first : first + int(self._pool.built[number])])
        on_it: IntArray = owners[owners != packing.NOBODY].astype(np.int64)
        return on_it

    # ---- inside ----

    def _set_status(self, node: str, status: int) -> None:
        packing.set_status(self._pool, self._number[node], status)

    def _make_room(self, owner: int) -> None:
        """Lengthen the arrays over owners, so that ``owner`` has an entry."""
        pool = self._pool
        more = max(owner + 1, 2 * len(pool.head)) - len(pool.head)
        if owner >= len(pool.head):
            self._pool = pool._replace(
                head=np.concatenate([pool.head, np.full(more, packing.NOBODY, np.int32)]),
                held=np.concatenate([pool.held, np.zeros(more, np.int32)]),
                spread=np.concatenate([pool.spread, np.zeros(more, np.int32)]),
            )

    def check(self) -> None:
        """Recompute all that is kept, from who owns each GPU and each node's status alone.

        Raises:
            AssertionError: something kept is not what it should be.
        """
        from powerflow.cluster.invariants import check_pool

        check_pool(self._pool)
