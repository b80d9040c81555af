"""Which running jobs are worth moving: onto fewer nodes, or off a node that could then sleep.

Everything is counted in the currency of the `prices` policy: weighted seconds of completion time, with joules turned
into seconds by the energy price λ_E. Moving a job costs its pause, ``(w + λ_E·P)·pause``. It can gain two things
(design §6):

* **pack** a job that stands on more nodes than its count needs: the rest of its run is shorter by
  ``(slowdown − 1)·remaining``, and it draws its power for so much less time. If that opens an empty node which could
  have slept, the watts of that node over the rest of the run are a cost.
* **empty** a node whose jobs all fit on other nodes in use: λ_E times the watts saved asleep times the expected sleep,
  less the joules of waking.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerflow.cluster.occupancy import Occupancy, Placement
from powerflow.cluster.packing import UP
from powerflow.cluster.spec import Node

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Movable:
    """Running jobs that may be moved. Whoever is not among them stays where they are. All arrays are ``[J]``.

    Attributes:
        owners: Different owners that hold GPUs.
        pause_s: Seconds that each stands still when moved.
        remaining_s: Seconds that each will still run, once on as few nodes as possible.
        slowdown: Its step time spread over step time packed, ≥ 1.
        power_w: Watts that each draws above idle; counted during the pause as well.
        weight: Priority.
    """

    owners: IntArray
    pause_s: FloatArray
    remaining_s: FloatArray
    slowdown: FloatArray
    power_w: FloatArray
    weight: FloatArray


@dataclass(frozen=True, slots=True)
class Prices:
    """What seconds and joules are worth.

    Attributes:
        energy_price: λ_E, seconds per joule.
        gpu_idle_w: Watts of one idle GPU.
        expected_sleep_s: Seconds that an emptied node is expected to sleep before it is needed again.
    """

    energy_price: float
    gpu_idle_w: float
    expected_sleep_s: float


@dataclass(frozen=True, slots=True)
class Migration:
    """Owners that move together.

    Attributes:
        owners: Who moves.
        emptied: Name of the node that can sleep afterwards, or None where a job is packed.
        gain: What it brings, weighted seconds; above ``cost``.
        cost: What it takes.
    """

    owners: tuple[int, ...]
    emptied: str | None
    gain: float
    cost: float


def worthwhile_migrations(occupancy: Occupancy, jobs: Movable, prices: Prices) -> list[Migration]:
    """Migrations that gain more than they cost, to be applied in this order; no owner moves twice.

    Candidates are tried by what they would bring, best first, each on what the ones before have left. Whether one
    is possible is found by doing it on a copy. ``occupancy`` is not changed.
    """
    trial = copy.deepcopy(occupancy)
    row = {int(owner): i for i, owner in enumerate(jobs.owners)}
    move_cost = (jobs.weight + prices.energy_price * jobs.power_w) * jobs.pause_s
    pack_gain = (jobs.weight + prices.energy_price * jobs.power_w) * (jobs.slowdown - 1.0) * jobs.remaining_s

    def cost_of(owners: Sequence[int]) -> float:
        return float(sum(move_cost[row[owner]] for owner in owners))

    candidates: list[tuple[float, int, Node | None]] = []  # net gain, owner to pack or -1, node to empty
    for owner in jobs.owners[~trial.packed_many(jobs.owners)].tolist():
        candidates.append((pack_gain[row[owner]] - move_cost[row[owner]], owner, None))
    for node in trial.nodes:
        owners = trial.owners_on(node.name).tolist()
        if node.can_sleep and owners and trial.status_of(node.name) == UP and row.keys() >= set(owners):
            candidates.append((_sleep_gain(node, prices) - cost_of(owners), -1, node))

    found: list[Migration] = []
    moved: set[int] = set()
    for net, owner, node_to_empty in sorted(candidates, key=lambda candidate: -candidate[0]):
        if net <= 0.0:
            break
        if node_to_empty is None:
            owners, gain, emptied = [owner], float(pack_gain[row[owner]]), None
        else:  # moves before this one may have brought others onto the node, or taken some away
            owners, gain, emptied = (
                trial.owners_on(node_to_empty.name).tolist(),
                _sleep_gain(node_to_empty, prices),
                node_to_empty.name,
            )
        if not owners or not moved.isdisjoint(owners):
            continue
        migration = Migration(tuple(owners), emptied, gain, cost_of(owners))
        kept = _try(trial, migration, prices, float(jobs.remaining_s[row[owners[0]]]))
        if kept is not None:
            found.append(kept)
            moved.update(owners)
    return found


def apply_migration(occupancy: Occupancy, migration: Migration) -> None:
    """Move the owners of a migration, away from the node that is to be emptied.

    Raises:
        ValueError: they no longer fit anywhere else; then they stand where they stood.
    """
    before = {owner: occupancy.placement(owner) for owner in migration.owners}
    gpus = [occupancy.gpus_of(owner) for owner in migration.owners]
    avoid = migration.emptied if migration.emptied and occupancy.status_of(migration.emptied) == UP else None
    occupancy.release_many(migration.owners)
    if avoid is not None:
        occupancy.drain(avoid)
    try:
        occupancy.allocate_many(migration.owners, gpus)
    except ValueError:
        for owner, placement in before.items():
            occupancy.put(owner, placement)
        raise
    finally:
        if avoid is not None:
            occupancy.recover(avoid)


def _sleep_gain(node: Node, prices: Prices) -> float:
    """Weighted seconds that one expected sleep of a node brings."""
    awake_w = node.idle_w + node.gpus * prices.gpu_idle_w
    saved_j = (awake_w - node.sleep_w) * prices.expected_sleep_s - awake_w * node.wake_s
    return prices.energy_price * saved_j


def _try(trial: Occupancy, migration: Migration, prices: Prices, remaining_s: float) -> Migration | None:
    """Apply a migration if it is possible and gains more than it costs, else leave everything as it was.

    ``remaining_s`` is how long the job that is packed will run. Returns the migration with all its cost.
    """
    owners = migration.owners
    before = {owner: trial.placement(owner) for owner in owners}
    packed = trial.packed_many(owners)
    in_use = trial.nodes_in_use()
    try:
        apply_migration(trial, migration)
    except ValueError:
        return None
    now_packed = trial.packed_many(owners)
    if migration.emptied is None:
        kept_awake_w = _kept_awake_w(trial, before[owners[0]], owners[0], prices)
        migration = replace(migration, cost=migration.cost + prices.energy_price * kept_awake_w * remaining_s)
        good = bool(now_packed.all())
    else:
        good = trial.nodes_in_use() < in_use and not (packed & ~now_packed).any()
    if good and migration.gain > migration.cost:
        return migration
    trial.release_many(owners)
    for owner, placement in before.items():
        trial.put(owner, placement)
    return None


def _kept_awake_w(trial: Occupancy, before: Placement, owner: int, prices: Prices) -> float:
    """Watts of nodes that could sleep but for a move: those it opened, less those it emptied; not below 0."""
    left = {share.node for share in before}
    reached = {share.node for share in trial.placement(owner)}
    watts = 0.0
    for node in trial.nodes_named(sorted(left ^ reached)):
        if node.can_sleep and len(trial.owners_on(node.name)) == (node.name in reached):
            saved_w = node.idle_w + node.gpus * prices.gpu_idle_w - node.sleep_w
            watts += saved_w if node.name in reached else -saved_w
    return max(watts, 0.0)
