"""Find ranks of the same owner that were started from another engine folder: one that was copied or deleted.

An agent has the name of its owner among its arguments, and its shims, which are forks, show the same ones. Their
working directory is the engine's folder, so that folder is known even after it was deleted.
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
    """A shim of a running rank: its pid and start time, the rank's name if it can be found, and its engine folder."""

    pid: int
    ticks: int
    rank: str
    home: str


def find_strays(home: Path, owner: str) -> list[Stray]:
    """Return the shims of an owner that an agent of this user started from another folder than ``home``.

    Args:
        home: The owner's engine folder; it need not exist.
        owner: The name that agents were given.
    """
    found = []
    for pid, ticks in _elsewhere("powerflow-shim", home, owner):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(Stray(pid, ticks, _rank(pid), os.readlink(f"/proc/{pid}/cwd")))
    return found


def end_stray_agents(home: Path, owner: str) -> None:
    """Kill agents of an owner in other folders; an engine that needs its agent starts a new one."""
    for pid, _ in _elsewhere("powerflow-agent", home, owner):
        process.send(pid, signal.SIGKILL)


def _elsewhere(comm: str, home: Path, owner: str) -> list[tuple[int, int]]:
    """Return pid and start time of the owner's processes of this name in other folders than ``home``."""
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
    """Kill ranks and their descendants, after which their shims end. Return those that still run after 20 s."""
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
    """Return the name of a shim's rank, by the lock that it holds."""
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            parts = os.readlink(f"/proc/{pid}/fd/{descriptor}").split("/")
            if "ranks" in parts[:-2] and parts[-1].split()[0] == "lock":
                return parts[-2]
    return "a rank"
