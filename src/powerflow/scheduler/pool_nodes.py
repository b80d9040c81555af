"""Follow the nodes of a pool: nodes that do not answer, nodes that answer again, nodes that join and leave.

Nobody knows what runs on a node that does not answer, so its GPUs are neither free nor lost. A job that holds GPUs only
there is **pinned**: it is in no view of a policy, and no decision changes it, until one of its nodes answers. A job
that holds GPUs on other nodes, too, **shrinks** to those: the ranks there go on without the others.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from powerflow.cluster.occupancy import NodeShare, Occupancy, Placement
from powerflow.cluster.packed_pool import ASLEEP, DRAINED, UP
from powerflow.cluster.spec import Node
from powerflow.scheduler.ledger import Ledger

if TYPE_CHECKING:
    from powerflow.scheduler.pool import Pool


class Outage:
    """The nodes of one pool that do not answer, and the jobs that hold GPUs on them.

    Attributes:
        nodes: Names of the nodes that do not answer.
        pinned: Slots (rows of the ledger) of jobs that keep their GPUs, and that no decision changes.
        shrunk: Slots of jobs that go on with fewer GPUs, which no plan has said yet.
    """

    def __init__(self) -> None:
        self.nodes: set[str] = set()
        self.pinned: set[int] = set()
        self.shrunk: set[int] = set()

    def forget(self, slot: int) -> None:
        """Forget a job that holds no GPUs any more."""
        self.pinned.discard(slot)
        self.shrunk.discard(slot)

    def take_shrunk(self) -> set[int]:
        """Return the jobs that go on with fewer GPUs than the last plan gave them; the next plan says so."""
        shrunk, self.shrunk = self.shrunk, set()
        return shrunk

    def pinned_up(self, occupancy: Occupancy) -> int:
        """Return the number of GPUs on nodes that answer which pinned jobs hold, so that nobody else can have them."""
        shares = (share for slot in self.pinned for share in occupancy.placement(slot))
        return sum(len(share.gpus) for share in shares if occupancy.status_of(share.node) in (UP, ASLEEP))

    def rest(self, placement: Placement) -> Placement:
        """Return the part of a placement that is on nodes which answer."""
        return tuple(share for share in placement if share.node not in self.nodes)


def slots_on(pool: Pool, node: str, job_ids: Collection[str], ledger: Ledger) -> set[int]:
    """Return the slots (rows of the ledger) of those of these jobs that hold GPUs on a node."""
    owners = set(pool.occupancy.owners_on(node).tolist())
    return {slot for job_id in job_ids if (slot := ledger.slot_of.get(job_id)) in owners and slot is not None}


def cut_off(pool: Pool, node: str, stay: Collection[str], ledger: Ledger, now_s: float) -> None:
    """Go on without a node that does not answer.

    Args:
        pool: The pool of the node.
        node: Name of the node.
        stay: Ids of jobs that keep all their GPUs anyway.
        ledger: The active jobs; it records the allocations.
        now_s: The time.
    """
    staying = slots_on(pool, node, stay, ledger)
    pool.outage.nodes.add(node)
    for slot in pool.occupancy.fail(node).tolist():
        _go_on(pool, slot, slot in staying, ledger, now_s)


def recover(pool: Pool, node: str, ledger: Ledger) -> None:
    """Let jobs use a node again. Jobs on this node may stay, unless another of their nodes is being emptied.

    A job that was pinned is planned again once all its nodes answer. Until then, a later event may say of the others
    that they still do not answer (`cut_off`): then it goes on without them.
    """
    occupancy, outage = pool.occupancy, pool.outage
    occupancy.recover(node)
    outage.nodes.discard(node)
    for slot in outage.pinned & set(occupancy.owners_on(node).tolist()):
        if outage.rest(placement := occupancy.placement(slot)) == placement:
            unpin(pool, slot, ledger)
    statuses = zip(occupancy.nodes, occupancy.status(), strict=True)
    empty = [each.name for each, status in statuses if status == DRAINED or each.name in outage.nodes]
    pool.evicted = {slot for name in empty for slot in occupancy.owners_on(name).tolist()} - outage.pinned


def unpin(pool: Pool, slot: int, ledger: Ledger) -> None:
    """Let decisions change a job again, if it was pinned."""
    if slot in pool.outage.pinned:
        pool.active = array("q", sorted([*pool.active, slot], key=ledger.rows["id"].__getitem__))
        pool.outage.pinned.discard(slot)


def _go_on(pool: Pool, slot: int, stays: bool, ledger: Ledger, now_s: float) -> None:
    """Let a job go on with its GPUs on nodes that answer. If it has none, or cannot, it keeps all its GPUs."""
    outage, job = pool.outage, ledger.job(slot)
    rest = outage.rest(pool.occupancy.placement(slot))
    kept = () if stays else largest([n for n in pool.axes.gpu_counts.tolist() if job.runs_on(n)], rest)
    if kept:
        unpin(pool, slot, ledger)
        pool.vacate(slot)
        pool.occupancy.put(slot, kept)
        gpus = np.array([sum(len(share.gpus) for share in kept)])
        ledger.give(np.array([slot]), gpus, ledger.rows["clock"][[slot]].astype(np.int64), now_s)
        pool.note_spread(ledger, slot)
        outage.shrunk.add(slot)
    elif rest and not stays:
        unpin(pool, slot, ledger)
        pool.evicted.add(slot)  # too few for it: the next decision moves it
    elif slot not in outage.pinned:
        outage.pinned.add(slot)
        pool.evicted.discard(slot)
        pool.active.remove(slot)


def join(pool: Pool, node: Node, ledger: Ledger) -> None:
    """Add a node to a pool, or replace the node of this name. Jobs get its GPUs from the next decision on.

    Raises:
        ValueError: Jobs hold GPUs that the node does not have any more.
    """
    others = [each for each in pool.occupancy.nodes if each.name != node.name]
    pool.rebuild([*others, node])
    recover(pool, node.name, ledger)


def leave(pool: Pool, node: str) -> bool:
    """Remove a node on which no job holds a GPU; return False if it is the last node of the pool, which only fails."""
    pool.outage.nodes.discard(node)
    rest = [each for each in pool.occupancy.nodes if each.name != node]
    if rest:
        pool.rebuild(rest)
    else:
        pool.occupancy.fail(node)
    return bool(rest)


def largest(counts: Sequence[int], placement: Placement) -> Placement:
    """Return the part of a placement with the largest number of GPUs in ``counts``; empty if there is none.

    GPUs are left out node by node, from the smallest share on.
    """
    held = sum(len(share.gpus) for share in placement)
    left = max((count for count in counts if 0 < count <= held), default=0)
    kept = []
    for share in sorted(placement, key=lambda share: -len(share.gpus)):
        if left:
            kept.append(NodeShare(share.node, share.gpus[:left]))
            left -= len(kept[-1].gpus)
    return tuple(kept)
