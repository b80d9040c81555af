"""Shut down the TCP sockets of a group of ranks, so that other ranks notice that this rank has left.

A connection closes only when its last copy is closed. Forked processes, such as the workers of a DataLoader, hold
copies; programs that the script starts would hold copies, too. Without an explicit shutdown, other ranks would wait in
their all-reduce as long as these processes live.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator

#: Connections of a group: file descriptor and inode of each socket (descriptors are used again, inodes are not).
Connections = set[tuple[int, int]]

#: Sockets of the current group. Each group has a set of its own.
_ours: Connections = set()


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Record the TCP sockets that are created inside this ``with`` block as sockets of the process group."""
    before = _sockets()
    try:
        yield
    finally:
        for descriptor, which in _tcp(_sockets() - before):
            # sockets of gloo are inheritable; those that a thread of the script creates in Python are not
            with contextlib.suppress(OSError):
                if os.get_inheritable(descriptor):
                    os.set_inheritable(descriptor, False)
                    _ours.add((descriptor, which))


def current() -> Connections:
    """Return the sockets of the current process group, for `shut_down` in another thread."""
    return _ours


def cut() -> None:
    """Shut down the TCP sockets of the process group, and forget them."""
    global _ours  # another thread may still hold the old set
    old, _ours = _ours, set()
    shut_down(old)


def ended() -> bool:
    """Return True if a connection of the current process group has ended: another rank has left it, or gloo has.

    The kernel knows this earlier than gloo does (see `powerflow.elastic.group.lost_before`).
    """
    connections = select.poll()
    for descriptor, _ in _ours:
        connections.register(descriptor, select.POLLRDHUP)
    return bool(connections.poll(0))


def shut_down(connections: Connections) -> None:
    """Shut down TCP sockets of a process group, except sockets that listen.

    If a listening socket were shut down, gloo (torch's CPU communication) would end the process, because it could not
    accept connections.
    """
    for descriptor, which in list(connections):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
            if os.fstat(copy.fileno()).st_ino == which and not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                copy.shutdown(socket.SHUT_RDWR)


def _sockets() -> Connections:
    """Return all open sockets of this process, each as file descriptor and inode."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{name}")
            if link.startswith("socket:["):
                found.add((int(name), int(link[len("socket:[") : -1])))
    return found


def _tcp(sockets: Connections) -> Connections:
    """Return those sockets that are TCP sockets and have not been closed since."""
    found = set()
    for descriptor, which in sockets:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
            is_tcp = copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM
            if is_tcp and os.fstat(copy.fileno()).st_ino == which:
                found.add((descriptor, which))
    return found


def _drop_copies() -> None:
    """Close the copies of the group's sockets in a forked child. So the connections close when the rank dies.

    The file descriptors are replaced by /dev/null and not freed. Otherwise code of gloo in the child might later close
    other files with the same descriptors.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor, which in _ours:
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == which:
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    _ours.clear()


os.register_at_fork(after_in_child=_drop_copies)
