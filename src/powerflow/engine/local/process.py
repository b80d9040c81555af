"""Processes as the kernel shows them: who is whose child, when it was started, what dies with whom.

A pid alone names no process, for it is used again; pid and start time together do, until the machine is booted.
"""

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
    """Name of this process in ``ps -o comm`` and ``top`` (15 bytes)."""
    _control(_SET_NAME, name.encode())


def adopt_orphans() -> None:
    """From now on descendants that lose their parent become children of this process, however they detached."""
    _control(_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends; at once if it ended already. Changing the user undoes it: call it after."""
    _control(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def gain_no_privileges() -> None:
    """From now on no program run by this process or its children gets more rights (set-uid bits do nothing)."""
    _control(_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Keep other processes of one's own user from one's memory, environment and open files; a new program undoes it."""
    _control(_SET_DUMPABLE, 0)


def be_dumpable() -> None:
    """Belong to one's user in /proc, which changing the user undoes."""
    _control(_SET_DUMPABLE, 1)


def open_process(pid: int, ticks: int) -> int | None:
    """A pidfd of the process of that pid and start time (readable once it ended); None if it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_ticks(pid) == ticks:
        return descriptor
    os.close(descriptor)
    return None


def children(pid: int) -> list[int]:
    """Pids of a process's children, zombies too."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return found


def descendants(pid: int) -> Iterator[int]:
    """Pids of all that stems from a process, parents before children; it itself is not among them.

    By a list, not by recursion: a job can fork a chain that is deeper than any stack. Each pid comes once, so the walk
    ends even if numbers are used again while it goes on.
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
    """Pids of the processes in a session that are no zombies."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := stat_fields(int(entry))) and int(found[3]) == leader and found[0] not in b"ZX":
            yield int(entry)


def descriptors() -> frozenset[int]:
    """Files that this process holds open."""
    found = set()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one that listed them is closed by now
            os.fstat(descriptor)
            found.add(descriptor)
    return frozenset(found)


def send(pid: int, number: int) -> bool:
    """Send a signal; False if the process is gone or is not ours to signal."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_children(spare: Callable[[int], bool] = lambda pid: False) -> int:
    """Kill all that stems from this process, but for some children and what is theirs; how many children are left.

    Needs `adopt_orphans`: whoever loses its parent becomes a child, so one pass after the other ends all.
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
    """Kill all that stems from this process; returns when it is gone (what hangs in the kernel is waited for)."""
    pause_s = 0.001
    while kill_children():
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
