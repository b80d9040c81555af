"""The connections of a group, cut for its peers to see whoever else holds copies of them.

A peer learns that we have let go when our connections close, and a connection closes with its last copy. Processes
forked meanwhile (workers of a loader) hold copies, and so would programs that the script starts: a rank would let go,
and its peers would wait in their all-reduce for as long as its own workers live.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

#: Connections of the present group: descriptor, and the socket that it stands for (descriptors are used again).
_ours: set[tuple[int, int]] = set()


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Take the TCP sockets that come to be in here for ours."""
    before = _open()
    try:
        yield
    finally:
        for descriptor, which in _open() - before:
            # gloo's can be inherited; a socket that a thread of the script opens meanwhile from Python cannot be.
            with contextlib.suppress(OSError):
                if os.get_inheritable(descriptor):
                    os.set_inheritable(descriptor, False)
                    _ours.add((descriptor, which))


def cut() -> None:
    """Shut all of ours down, except those that listen: gloo ends the process when it cannot accept."""
    for descriptor, which in _ours:
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino != which:
                continue
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    copy.shutdown(socket.SHUT_RDWR)
    _ours.clear()


def _open() -> set[tuple[int, int]]:
    """All TCP sockets of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
                    found.add((int(name), os.fstat(copy.fileno()).st_ino))
    return found


def _drop_copies() -> None:
    """In a forked child: hold nothing of the group, so that its end is seen when its owner is killed.

    The descriptors stay in use, for nothing: what the child inherited of gloo must not close what gets their numbers.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor, which in _ours:
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == which:
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    _ours.clear()


os.register_at_fork(after_in_child=_drop_copies)
