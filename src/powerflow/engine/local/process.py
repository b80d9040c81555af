"""Control processes and find their descendants, by prctl(2) and /proc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from powerflow.osutil.processes import start_ticks, stat_fields

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NAME, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 4, 15, 36, 38
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _control(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _prctl(option, argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def show_as(name: str) -> None:
    """Set the name of this process that ``ps -o comm`` and ``top`` show (15 bytes)."""
    _control(_SET_NAME, name.encode())


def adopt_orphans() -> None:
    """Make this process the new parent of each descendant whose parent ends, even of detached descendants."""
    _control(_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent ends. If the parent has ended already, end this process now.

    Call this after a change of the user, because such a change cancels the setting.
    """
    _control(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def gain_no_privileges() -> None:
    """Make sure that this process, its children and the programs that they run cannot gain rights.

    Set-uid bits of programs then have no effect.
    """
    _control(_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Hide memory, environment and open files of this process from other processes of the same user.

    If this process starts another program (exec), the program's memory, environment and files are visible again.
    """
    _control(_SET_DUMPABLE, 0)


def be_dumpable() -> None:
    """Make /proc/PID of this process belong to the user of this process again.

    Call this after this process has changed its user.
    """
    _control(_SET_DUMPABLE, 1)


def open_process(pid: int, ticks: int) -> int | None:
    """Return a pidfd of the process with this pid and this start time; None if the process is gone.

    A pidfd is a file descriptor of a process. It becomes readable when the process has ended.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_ticks(pid) == ticks:
        return descriptor
    os.close(descriptor)
    return None


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, including zombies (ended processes that still have a pid)."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return found


def descendants(pid: int) -> Iterator[int]:
    """Yield the pids of all descendants of a process, parents before their children.

    The function does not recurse, because a job can create a chain of processes that is deeper than any stack. Each pid
    comes only once, so the function ends even if the kernel uses pids again in the meantime.
    """
    seen = {pid}
    left = deque(seen)
    while left:
        for child in children(left.popleft()):
            if child not in seen:
                seen.add(child)
                left.append(child)
                yield child


def session(leader: int) -> Iterator[int]:
    """Yield the pids of the processes in a session, without zombies (ended processes that still have a pid)."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := stat_fields(int(entry))) and int(found[3]) == leader and found[0] not in b"ZX":
            yield int(entry)


def descriptors() -> frozenset[int]:
    """Return the numbers of all open file descriptors of this process."""
    found = set()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one that `listdir` used is closed by now
            os.fstat(descriptor)
            found.add(descriptor)
    return frozenset(found)


def send(pid: int, number: int) -> bool:
    """Send a signal to a process.

    Returns:
        False if the process is gone, or if this process has no right to send it signals.
    """
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_children(spare: Callable[[int], bool] = lambda pid: False) -> int:
    """Kill all descendants of this process, except the children that ``spare`` accepts and their descendants.

    Call `adopt_orphans` first: then orphans become children of this process, and repeated calls kill all of them.

    Args:
        spare: Function that returns True for the pid of a child that must not be killed.

    Returns:
        How many children were found that ``spare`` does not accept.
    """
    doomed = [child for child in children(os.getpid()) if not spare(child)]
    for child in doomed:
        for below in [*descendants(child)]:
            send(below, signal.SIGKILL)
        send(child, signal.SIGKILL)
    for child in doomed:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
    return len(doomed)


def end_children() -> None:
    """Kill all descendants of this process, and wait until all are gone, even those that hang in the kernel."""
    pause_s = 0.001
    while kill_children():
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
