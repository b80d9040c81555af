"""Find ranks of the same owner that still run from another engine folder, such as a copied or deleted one.

The owner's name is among the arguments of a fork server. Its shims are forks of the fork server, so they show the same
arguments. The working directory of a shim is its engine folder, so the folder is known even after it was deleted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from powerflow.engine.local import process
from powerflow.osutil.processes import start_ticks

_END_S = 20.0


@dataclass(frozen=True, slots=True)
class Stray:
    """A running rank of another engine folder, described by its shim (the process that watches the rank).

    Attributes:
        pid: Pid of the shim.
        ticks: Start time of the shim, in clock ticks since boot.
        rank: Name of the rank; "a rank" if it cannot be found.
        home: Engine folder of the shim.
    """

    pid: int
    ticks: int
    rank: str
    home: str


def find_strays(home: Path, owner: str) -> list[Stray]:
    """Return the running ranks of an owner that were started from a folder other than ``home``.

    Args:
        home: Engine folder of the owner; it need not exist.
        owner: Name of the owner that the fork servers were given.
    """
    found = []
    for pid, ticks in _elsewhere("powerflow-shim", home, owner):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(Stray(pid, ticks, _rank(pid), os.readlink(f"/proc/{pid}/cwd")))
    return found


def end_stray_servers(home: Path, owner: str) -> None:
    """Kill the fork servers of an owner that run in a folder other than ``home``.

    An engine that still needs its fork server starts a new one.
    """
    for pid, _ in _elsewhere("powerflow-forks", home, owner):
        process.send(pid, signal.SIGKILL)


def _elsewhere(comm: str, home: Path, owner: str) -> list[tuple[int, int]]:
    """Return pid and start time of the owner's processes with the name ``comm`` in a folder other than ``home``."""
    here = _place(str(home))
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            about = f"/proc/{entry}"
            if (
                Path(about, "comm").read_text("utf-8", "replace").strip() != comm
                or os.stat(about).st_uid != os.geteuid()
            ):
                continue
            arguments = Path(about, "cmdline").read_bytes().split(b"\0")
            place, ticks = _place(f"{about}/cwd"), start_ticks(int(entry))
            if owner.encode() in arguments and (place is None or place != here) and ticks is not None:
                found.append((int(entry), ticks))
    return found


def end_strays(strays: Sequence[Stray]) -> list[Stray]:
    """Kill ranks and their descendants; their shims then end by themselves.

    Return the strays that still run after 20 s.
    """
    deadline_s = time.monotonic() + _END_S
    left = list(strays)
    while left and time.monotonic() < deadline_s:
        for stray in left:
            for pid in [*process.descendants(stray.pid)]:
                process.send(pid, signal.SIGKILL)
        time.sleep(0.05)
        left = [stray for stray in left if start_ticks(stray.pid) == stray.ticks]
    return left


def _place(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _rank(pid: int) -> str:
    """Return the name of the rank that a shim watches, found by the lock that the shim holds."""
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            parts = os.readlink(f"/proc/{pid}/fd/{descriptor}").split("/")
            if "ranks" in parts[:-2] and parts[-1].split()[0] == "lock":
                return parts[-2]
    return "a rank"
