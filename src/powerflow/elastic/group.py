"""Form and close torch's process group of one generation (the ranks that train together).

No wait for another rank is longer than `PATIENCE_S` if that rank may have died. There are two exceptions. The wait
until all members have arrived may be longer, but each member can give up. The wait of gloo (torch's CPU communication)
for connections is limited by `CONNECT_S`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from powerflow.elastic import peer_sockets
from powerflow.elastic.announcement import Announcements
from powerflow.elastic.mailbox import Mailbox, Target
from powerflow.errors import InputError

#: Longest wait in seconds for a rank that may have died after all ranks had arrived.
PATIENCE_S = 10.0
#: Timeout for gloo's connections. gloo waits five times as long for a rank that exists but does not connect, such as
#: one that has lost another rank and left the group.
CONNECT_S = 4.0
#: Longest wait inside a collective of the training. It is long because a slow rank is not lost; a killed rank is
#: noticed at once by its closed connection.
COLLECTIVE_S = 3600.0
#: Longest time between two looks for something that ranks wait for, and between two checks whether to give up.
POLL_S, GIVE_UP_S = 0.004, 0.02
#: Environment variables: address at which other nodes reach this one (default: the loopback address), and the network
#: interface with this address (default: found by the address).
ADDRESS, INTERFACE = "POWERFLOW_ADDRESS", "POWERFLOW_INTERFACE"
#: Environment variables of gloo and NCCL: the interface at which they meet other ranks.
_THEIR_INTERFACE = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_SIOCGIFADDR = 0x8915
_LOOPBACK = "127.0.0.1"

#: The present group and those before it, kept until nothing else holds them (see `close`).
_held: list[dist.ProcessGroup] = []
atexit.register(_held.clear)


class GaveUp(Exception):
    """The members of a new group did not meet, and this rank has stopped waiting."""


def lost_peer(error: RuntimeError) -> bool:
    """Return True if an error of torch means that another rank was lost.

    Errors of gloo (torch's CPU communication) can be recognised by their text only.
    """
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def lost_in(act: Callable[[], None]) -> str:
    """Call ``act``, a function that communicates with other ranks, and report if a rank was lost.

    Returns:
        Torch's message if a rank was lost during the call; otherwise "".
    """
    try:
        act()
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        return str(error)
    return ""


def lost_before(act: Callable[[], None]) -> str:
    """Call ``act``, as `lost_in` does, unless a rank was lost before: then ``act`` is not called.

    Only for collectives that no rank of the group can complete without this one, so that none has left after it.

    gloo (of torch 2.13) never fails a message that it cannot write because the other rank has closed the connection, if
    it has not read the end of the connection before. The sender would wait for `COLLECTIVE_S`. A rank that was stopped
    for a while, or that is alone on a busy core, may well send before gloo's thread has read.

    Returns:
        Why a rank was lost, or is lost now; otherwise "".
    """
    if peer_sockets.ended():
        return "the connection to another rank has ended"
    return lost_in(act)


class RendezvousStore:
    """The store at which the members of a generation meet, on the node of the first member.

    Attributes:
        generation: The generation.
        place: Address and port of the store, for other members.
        store: Torch's store.
    """

    def __init__(self, mailbox: Mailbox, generation: int) -> None:
        """Open the store, and post its place in the mailbox.

        Raises:
            InputError: The address of this node, as the environment gives it, is not an address of this machine.
        """
        address = os.environ.get(ADDRESS) or _LOOPBACK
        try:
            listener = socket.create_server((address, 0))
        except OSError as error:
            what = f"ranks of other nodes cannot meet here: {error.strerror}"
            raise InputError(what, where=f"{ADDRESS} {address}") from None
        port = listener.getsockname()[1]
        self.generation = generation
        self.place: Mapping[str, Any] = {"address": address, "port": port}
        self.store = _store(address, port, listener.detach())
        mailbox.post_rendezvous(generation, self.place)

    def arrived(self) -> int:
        """Return how many members have come."""
        return self.store.add("arrived", 0)


class Rendezvous:
    """Knows where the next generations meet, as far as this rank can know it."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._opened: RendezvousStore | None = None  # the last one that this rank has opened
        self._heard: tuple[int, Mapping[str, Any]] | None = None  # generation and place, heard in the last group

    def is_open(self, generation: int) -> bool:
        """Return True if this rank has opened the meeting of a generation."""
        return self._opened is not None and self._opened.generation == generation

    def open(self, generation: int) -> RendezvousStore:
        """Return the meeting of a generation whose first member is this rank. It is opened the first time."""
        if self._opened is None or self._opened.generation != generation:
            self._opened = RendezvousStore(self._mailbox, generation)
        return self._opened

    def share(self, target: Target, current: Target, name: str) -> None:
        """Tell all ranks of the present group where the next generation meets, if its first member is one of them.

        The mailbox has the place, too, but files come late from other nodes, and now all ranks wait. All ranks of the
        group must call this.

        Raises:
            RuntimeError: A rank was lost (`lost_peer`).
        """
        names = [member.name for member in current.members]
        if len(target.members) < 2 or target.members[0].name not in names:
            return
        source, rank = names.index(target.members[0].name), names.index(name)
        place = self.open(target.generation).place if rank == source else None
        self._heard = (target.generation, Announcements.share_place(place, source, rank))

    def place(self, generation: int) -> Mapping[str, Any] | None:
        """Return where a generation meets; None if this rank does not know it yet."""
        if self._heard is not None and self._heard[0] == generation:
            return self._heard[1]
        return self._mailbox.rendezvous(generation)

    def close(self) -> None:
        """Forget the meeting that this rank has opened. Its store ends when the group that uses it has ended."""
        self._opened = None


def meet(rendezvous: Rendezvous, target: Target, rank: int, give_up: Callable[[], bool]) -> Store:
    """Wait until all members of a target are present; return torch's store, through which they form the new group.

    Raises:
        GaveUp: ``give_up`` has returned True.
        RuntimeError: The first member was lost (`lost_peer`).
    """
    if len(target.members) == 1:
        return HashStore()
    if rank == 0:
        store = rendezvous.open(target.generation).store
        rendezvous.close()
    else:
        place = None
        for _ in until(give_up):
            place = rendezvous.place(target.generation)
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
    """Form torch's default process group of all ranks that have met in the store.

    Raises:
        RuntimeError: A rank was lost while the group formed (see `lost_peer`).
    """
    _form(store, rank, ranks, cuda=cuda)
    del _held[:-1]


def stand_alone(*, cuda: bool) -> None:
    """Form a process group of this rank alone, if there is no group: collectives that the script calls end at once.

    Groups that were closed before are kept, because DDP may still hold them.
    """
    if not dist.is_initialized():
        _form(HashStore(), 0, 1, cuda=cuda)


def _form(store: Store, rank: int, ranks: int, *, cuda: bool) -> None:
    close()
    _choose_interface()
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
    _held.append(dist.distributed_c10d._get_default_group())


def _choose_interface() -> None:
    """Tell gloo and NCCL at which network interface to meet other ranks, unless the job's user has told them.

    Raises:
        InputError: This machine has no such interface.
    """
    address, name = os.environ.get(ADDRESS) or _LOOPBACK, os.environ.get(INTERFACE, "")
    if name and name not in [known for _, known in socket.if_nameindex()]:
        raise InputError("this machine has no network interface of this name", where=f"{INTERFACE} {name}")
    if address == _LOOPBACK and not name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        return
    name = name or _interface_of(address)
    for variable in _THEIR_INTERFACE if name else ():
        os.environ.setdefault(variable, name)


def _interface_of(address: str) -> str:
    """Return the name of the interface with this IPv4 address; "" if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return ""


def abandon(connections: peer_sockets.Connections) -> None:
    """Make collectives of the current process group fail, from a thread other than the one that waits in them.

    Args:
        connections: `powerflow.elastic.peer_sockets.current`, read before the caller decided to leave the group.
    """
    peer_sockets.shut_down(connections)
    if not dist.is_initialized():
        return
    # no NCCL in this group; the script's thread has closed the group in the meantime
    with contextlib.suppress(RuntimeError, ValueError):
        backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cuda"))
        if hasattr(backend, "abort"):  # its connections are not ours to see
            backend.abort()


def settle(outside_s: float = 0.0) -> None:
    """Allow long waits for other ranks from now on. The process group works, so a silent rank is slow, not lost.

    Args:
        outside_s: Seconds that a rank may do something else while the others wait for it in their next step.
    """
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=max(COLLECTIVE_S, 2.0 * outside_s)))


def warm_up() -> None:
    """Form a process group of this rank alone and close it, so that torch loads what a first group needs.

    Loading takes seconds. Call this while no other rank waits for this rank.
    """
    form(HashStore(), 0, 1, cuda=False)
    with torch.random.fork_rng(devices=[]):  # leave the script's random numbers as they are
        DistributedDataParallel(torch.nn.Linear(1, 1), init_sync=False)
    close()


def close() -> None:
    """Close torch's default process group, so that ranks that wait for this rank notice that it has left.

    This module keeps torch's group object until the next generation has formed or the process ends, also if the script
    itself destroys the group. Otherwise DDP's reducer would often release the object last. The reducer would then wait
    for gloo's threads while it holds Python's global lock. A thread that must still free a tensor would wait for this
    lock, and the process would hang.
    """
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
    """Yield once for each turn of a polling loop. The waits between the turns become longer, up to `POLL_S`.

    ``give_up`` reads files, so it is called in the first turn and then every `GIVE_UP_S` only.

    Raises:
        GaveUp: ``give_up`` has returned True.
    """
    wait_s, asked_s = 0.0005, -math.inf
    while True:
        yield
        if time.monotonic() - asked_s >= GIVE_UP_S:
            if give_up():
                raise GaveUp
            asked_s = time.monotonic()
        time.sleep(wait_s)
        wait_s = min(POLL_S, wait_s * 1.5)
