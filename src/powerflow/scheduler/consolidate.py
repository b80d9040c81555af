"""Bring a job that stands on more nodes than it needs together again, if that is worth the pauses it costs.

A job spread over nodes synchronises over the network, which can slow it several times. It is moved to one node as
soon as one has room, or as soon as smaller jobs that stand there can be moved elsewhere. Both sides are counted in
GPU-seconds: what the job gains over the time it is expected to stay, what the pauses of all that move cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.cluster.occupancy import IntArray, Occupancy
from powerflow.cluster.packing import UP

STAY_S = 3600.0  # nobody is expected to keep its GPUs for longer than this
MARGIN = 2.0  # a move must gain twice what it costs
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
        moves_anyway: It stands still now whatever happens, so that its own pause costs nothing more.
    """

    owner: int
    gpus: int
    speedup: float
    stay_s: float
    moves_anyway: bool

    def gain_gpu_s(self) -> float:
        """GPU-seconds it gains on one node."""
        return self.gpus * self.speedup * min(self.stay_s, STAY_S)


def consolidate(occupancy: Occupancy, jobs: Sequence[Spread], pause_gpu_s: Callable[[int], float]) -> list[int]:
    """Move jobs together, dearest first; the occupancy is changed.

    Args:
        occupancy: Who holds which GPUs.
        jobs: Those that stand on more nodes than they need.
        pause_gpu_s: What moving an owner costs, GPU-seconds; 0 for one that moves anyway.

    Returns:
        Owners that now hold other GPUs than before.
    """
    moved: list[int] = []
    for job in sorted(jobs, key=lambda job: (-job.gain_gpu_s(), job.owner))[:JOBS_TRIED]:
        own_cost = 0.0 if job.moves_anyway else pause_gpu_s(job.owner)
        affordable = job.gain_gpu_s() / MARGIN - own_cost
        if affordable <= 0.0:
            continue
        victims = _room_for(occupancy, job, affordable, pause_gpu_s)
        if victims is not None:
            occupancy.release_many([job.owner, *victims])
            # the job goes to the one node that now has room for it, then the others to what is left
            occupancy.allocate(job.owner, job.gpus)
            if victims:
                occupancy.allocate_many(list(victims), [victims[victim] for victim in victims])
            moved += [job.owner, *victims]
    return moved


def _room_for(
    occupancy: Occupancy, job: Spread, affordable: float, pause_gpu_s: Callable[[int], float]
) -> dict[int, int] | None:
    """Owners (and their GPUs) that must leave so that a node has room for the job; None if it is not worth it."""
    room = occupancy.room()
    room[occupancy.status() != UP] = -1
    for share in occupancy.placement(job.owner):
        number = occupancy.number(share.node)
        if room[number] >= 0:
            room[number] += len(share.gpus)  # its own GPUs are free once it moves
    short = job.gpus - room
    short[(occupancy.sizes() < job.gpus) | (room < 0)] = np.iinfo(np.int64).max
    for number in np.argsort(short, kind="stable")[:NODES_TRIED].tolist():
        if short[number] <= 0:
            return {}
        if short[number] > job.gpus:
            break
        victims = _leavers(occupancy, job, number, int(short[number]), room)
        if victims is not None and sum(map(pause_gpu_s, victims)) <= affordable:
            return victims
    return None


def _leavers(occupancy: Occupancy, job: Spread, number: int, short: int, room: IntArray) -> dict[int, int] | None:
    """The fewest GPUs' worth of smaller jobs of a node that leave ``short`` GPUs and find one node each elsewhere."""
    here = [int(owner) for owner in occupancy.owners_on(occupancy.nodes[number].name) if owner != job.owner]
    sizes = {owner: occupancy.gpus_of(owner) for owner in here if occupancy.nodes_of(owner) == 1}
    smaller = sorted((gpus, owner) for owner, gpus in sizes.items() if gpus < job.gpus)
    victims: dict[int, int] = {}
    left = short
    for gpus, owner in reversed(smaller):
        if gpus <= left:
            victims[owner] = gpus
            left -= gpus
    if left > 0:
        return None
    elsewhere = np.delete(room, number)
    for gpus in victims.values():  # largest first
        fits = np.flatnonzero(elsewhere >= gpus)
        if len(fits) == 0:
            return None
        elsewhere[fits[np.argmin(elsewhere[fits])]] -= gpus
    return victims
