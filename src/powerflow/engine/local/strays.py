"""Find ranks that were started from another folder for the same owner: a copy's original, or a folder that is gone.

An agent carries the name of its owner among its arguments; its shims are forks of it and show the same ones. Each
has its engine's folder as working directory, so that folder is known even after it was deleted.
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
    """A shim whose rank runs: its process, the rank's name if it can be found, and its working directory."""

    pid: int
    ticks: int
    rank: str
    home: str


def find_strays(home: Path, owner: str) -> list[Stray]:
    """Find what runs for an owner, started by an agent of this user, but not from this folder.

    Args:
        home: The owner's engine folder; it need not be there.
        owner: Name that the agents were given.
    """
    found = []
    for pid, ticks in _elsewhere("powerflow-shim", home, owner):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(Stray(pid, ticks, _rank(pid), os.readlink(f"/proc/{pid}/cwd")))
    return found


def end_stray_agents(home: Path, owner: str) -> None:
    """Kill agents of an owner that stand in another folder; one that is needed is started again by whoever needs it."""
    for pid, _ in _elsewhere("powerflow-agent", home, owner):
        process.send(pid, signal.SIGKILL)


def _elsewhere(comm: str, home: Path, owner: str) -> list[tuple[int, int]]:
    """Processes of this kind, owner and user that do not stand in this folder: pid and start time."""
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
    """Kill ranks and all they started; their shims end themselves. Return those that still run after 20 s."""
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
    """Name of a shim's rank, by the lock that it holds."""
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            parts = os.readlink(f"/proc/{pid}/fd/{descriptor}").split("/")
            if "ranks" in parts[:-2] and parts[-1].split()[0] == "lock":
                return parts[-2]
    return "a rank"
