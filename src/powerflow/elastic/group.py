"""Form and close the process group of one generation.

No wait for another rank that may have died is longer than `PATIENCE_S`, with two exceptions: the wait for members to
arrive, in which each member can give up, and gloo's wait for connections (`CONNECT_S`).
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

#: Longest wait for a rank that may have died after all had arrived.
PATIENCE_S = 10.0
#: Timeout for gloo's connections. gloo waits five times as long for a rank that exists but does not connect, such as
#: one that has lost another rank and left the group.
CONNECT_S = 4.0
#: Longest wait inside a collective of the training. It is long because a slow rank is not lost; a killed rank is
#: noticed at once by its closed connection.
COLLECTIVE_S = 3600.0
#: Environment variable: address at which other nodes reach this one; default is the loopback address.
ADDRESS = "POWERFLOW_ADDRESS"
_LOOPBACK = "127.0.0.1"


class GaveUp(Exception):
    """The members did not meet, and this rank has given up."""


def lost_peer(error: RuntimeError) -> bool:
    """Return whether an error of torch means that a rank was lost. Errors of gloo are known by their text only."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def lost_in(act: Callable[[], None]) -> str:
    """Do something together with other ranks; return torch's message if one was lost in the meantime, else ""."""
    try:
        act()
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        return str(error)
    return ""


def meet(mailbox: Mailbox, target: Target, rank: int, give_up: Callable[[], bool]) -> Store:
    """Meet all other members of a target, and return the store for the new group.

    Raises:
        GaveUp: ``give_up`` has returned True.
        RuntimeError: The first member was lost (`lost_peer`).
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
    """Form torch's default group of the members that have met.

    Raises:
        RuntimeError: A member was lost in the meantime (`lost_peer`).
    """
    if os.environ.get(ADDRESS, _LOOPBACK) == _LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if cuda:  # a failed all-reduce must raise its error before the optimiser steps
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    # torch numbers its groups. After a failure to form one, ranks would have different numbers and never find each
    # other, so always begin at 0.
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
    """Allow long waits from now on, because the group works: other ranks may be slow.

    Args:
        outside_s: Seconds that a rank may do something else while the others wait for it in their next step.
    """
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=max(COLLECTIVE_S, 2.0 * outside_s)))


def warm_up() -> None:
    """Let torch load what a first group needs, which takes seconds, while no other rank waits."""
    form(HashStore(), 0, 1, cuda=False)
    with torch.random.fork_rng(devices=[]):  # leave the script's random numbers as they are
        DistributedDataParallel(torch.nn.Linear(1, 1), init_sync=False)
    close()


def close() -> None:
    """Close the default group, so that waiting ranks notice that this rank has left."""
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
    """Yield for each turn of a polling loop, with growing waits between; raise `GaveUp` if ``give_up`` returns True."""
    wait_s = 0.0005
    while True:
        yield
        if give_up():
            raise GaveUp
        time.sleep(wait_s)
        wait_s = min(0.02, wait_s * 1.5)
