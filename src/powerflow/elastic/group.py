"""The process group of one generation: how its members find each other, and how they let go.

No wait here depends on a peer being alive for longer than `PATIENCE_S`, except two: the one for members to arrive, in
which every member keeps asking whether it should give up, and gloo's for their connections (`CONNECT_S`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from powerflow.elastic import peer_sockets
from powerflow.elastic.mailbox import Mailbox, Target

#: Longest wait for a peer that may have died, once all had arrived.
PATIENCE_S = 10.0
#: Given to gloo for its connections: it waits five times as long for a peer that is there but does not connect, as one
#: that lost another peer and let go will not.
CONNECT_S = 4.0
#: Longest wait inside a collective of the training itself. Long: a slow rank is not a lost one, and a killed one is
#: seen at once by its closed connection.
COLLECTIVE_S = 3600.0
#: Environment: address under which other nodes reach this one; the loopback address if all is on one machine.
ADDRESS = "POWERFLOW_ADDRESS"
_LOOPBACK = "127.0.0.1"


class GaveUp(Exception):
    """The members did not come together, and something newer is to be done."""


def lost_peer(error: RuntimeError) -> bool:
    """Whether this is how torch says that a peer is gone. gloo has no class of its own, only its name in the text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def lost_in(act: Callable[[], None]) -> str:
    """Do something together with peers; return what torch says if one was lost meanwhile, else ""."""
    try:
        act()
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        return str(error)
    return ""


def meet(mailbox: Mailbox, target: Target, rank: int, give_up: Callable[[], bool]) -> Store:
    """Come together with all other members; returns when all have arrived.

    Raises:
        GaveUp: When ``give_up`` says so before.
        RuntimeError: When the first member was lost (`lost_peer`).
    """
    if len(target.members) == 1:
        return HashStore()
    address = os.environ.get(ADDRESS, _LOOPBACK)
    if rank == 0:
        listener = socket.create_server((address, 0))
        port = listener.getsockname()[1]
        store = _store(address, port, listener.detach())
        mailbox.post_rendezvous(target.generation, {"address": address, "port": port})
    else:
        place = None
        for _ in until(give_up):
            place = mailbox.rendezvous(target.generation)
            if place is not None:
                break
        assert place is not None
        store = _store(place["address"], place["port"], None)
    arrived = store.add("arrived", 1)
    for _ in until(give_up):
        if arrived == len(target.members):
            break
        arrived = store.add("arrived", 0)
    return store


def form(store: Store, rank: int, ranks: int, *, cuda: bool) -> None:
    """Make the members that have met into torch's default group.

    Raises:
        RuntimeError: When a member was lost meanwhile (`lost_peer`).
    """
    if os.environ.get(ADDRESS, _LOOPBACK) == _LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if cuda:  # a failed all-reduce must be known before the optimiser steps
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    # torch names a group by how many there were before, and forgets them only when one is destroyed. Who failed to form
    # one would look for the others under another name than those who succeeded, and both would wait in vain.
    dist.distributed_c10d._world.group_count = 0
    with peer_sockets.noted():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=CONNECT_S),
        )
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=PATIENCE_S))


def settle(outside_s: float = 0.0) -> None:
    """The group has proved itself: from now on be patient with slow ranks.

    Args:
        outside_s: Seconds that one of them may do something else while the others wait for it in their next step.
    """
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=max(COLLECTIVE_S, 2.0 * outside_s)))


def warm_up() -> None:
    """Have torch load what a first group needs (seconds), while nobody waits for it."""
    form(HashStore(), 0, 1, cuda=False)
    with torch.random.fork_rng(devices=[]):  # the script's random numbers are not ours to draw
        DistributedDataParallel(torch.nn.Linear(1, 1), init_sync=False)
    close()


def close() -> None:
    """Let go of the default group. Peers that wait for us see it."""
    peer_sockets.cut()
    if dist.is_initialized():
        dist.destroy_process_group()


def _store(address: str, port: int, listener: int | None) -> TCPStore:
    return TCPStore(
        address,
        port,
        is_master=listener is not None,
        timeout=timedelta(seconds=PATIENCE_S),
        wait_for_workers=False,
        master_listen_fd=listener,
    )


def until(give_up: Callable[[], bool]) -> Iterator[None]:
    """Turns of a loop that looks for something, ever more slowly; raises `GaveUp` when told to give up."""
    wait_s = 0.0005
    while True:
        yield
        if give_up():
            raise GaveUp
        time.sleep(wait_s)
        wait_s = min(0.02, wait_s * 1.5)
