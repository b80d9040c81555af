"""Limit a rank's memory and CPUs by control groups, and find its processes wherever they detached to.

Both versions are used where they are mounted. Version 2 (`cgroup2`) holds every rank's processes, so that they can be
killed even if shim and agent were killed. A limit needs its controller: in version 2 if it was delegated to this user,
else in version 1 (a hierarchy of its own). A limit cannot be enforced if its directory cannot be created.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from powerflow.engine.local.process import send

_PERIOD_US = 100_000
_CONTROLLERS = {"memory": "memory", "cpu": "cpus"}  # the kernel's name to that of `Engine.limits`


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Directories in which ranks get their control groups.

    Attributes:
        all_ranks: That of version 2; None if it cannot be used.
        limiting: By limit (``memory``, ``cpus``): the directory and its cgroup version.
    """

    all_ranks: Path | None
    limiting: Mapping[str, tuple[Path, int]]

    def limits(self) -> frozenset[str]:
        """Return which limits can be enforced."""
        return frozenset(self.limiting)

    def enter(self, rank: str, pid: int, *, memory_bytes: int, cpus: float) -> list[str]:
        """Put a process into control groups of its rank; return them, for `kill` and `leave`. A limit of 0 is none.

        Raises:
            OSError: A limit that can be enforced here was not.
        """
        homes = [] if self.all_ranks is None else [self.all_ranks / rank]
        settings: list[tuple[Path, str]] = []
        for what, wanted in (("memory", float(memory_bytes)), ("cpus", cpus)):
            if wanted and what in self.limiting:
                above, version = self.limiting[what]
                homes += [above / rank] if above / rank not in homes else []
                settings += [(above / rank / file, value) for file, value in _settings(what, wanted, version)]
        groups = [str(home) for home in homes]
        try:
            for home in homes:
                home.mkdir(exist_ok=True)
            for file, value in settings:
                file.write_text(value)
            for home in homes:
                (home / "cgroup.procs").write_text(str(pid))
        except OSError:
            leave(groups)
            raise
        return groups

    def close(self) -> None:
        """Remove the directories of all ranks if they are empty."""
        for above in {self.all_ranks, *(above for above, _ in self.limiting.values())} - {None}:
            assert above is not None
            with contextlib.suppress(OSError):
                above.rmdir()


def kill(groups: Sequence[str]) -> bool:
    """Kill all processes in these groups; return whether there were any.

    Version 2 can kill a group at once (Linux 5.14), so that no job can fork faster than it is killed.
    """
    found = False
    for group in groups:
        with contextlib.suppress(OSError):
            switch = os.open(os.path.join(group, "cgroup.kill"), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(switch, b"1")
            finally:
                os.close(switch)
        with contextlib.suppress(OSError):
            for pid in Path(group, "cgroup.procs").read_text().split():
                found = send(int(pid), signal.SIGKILL) or found
    return found


def leave(groups: Sequence[str]) -> None:
    """Remove the groups that are empty."""
    for group in groups:
        with contextlib.suppress(OSError):
            os.rmdir(group)


def _settings(what: str, wanted: float, version: int) -> list[tuple[str, str]]:
    if what == "memory":
        return [("memory.max" if version == 2 else "memory.limit_in_bytes", str(int(wanted)))]
    quota = str(max(1000, round(wanted * _PERIOD_US)))  # the kernel takes no less than 1 ms
    if version == 2:
        return [("cpu.max", f"{quota} {_PERIOD_US}")]
    return [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", quota)]


def open_cgroups(name: str, root: Path = Path("/")) -> Cgroups:
    """Create the directories for an agent's ranks, below the agent's own groups.

    Args:
        name: Unique name of this agent.
        root: Root of the file system.
    """
    mounts = _mounts(root)
    limiting: dict[str, tuple[Path, int]] = {}
    all_ranks = None
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        number, controllers, own = line.split(":", 2)
        mount = mounts.get("" if number == "0" else controllers)
        if mount is None:
            continue
        below = root / str(mount / own.lstrip("/")).lstrip("/") / f"powerflow-{name}"
        if number == "0":
            all_ranks = _make(below)
            if all_ranks:
                limiting |= {_CONTROLLERS[found]: (all_ranks, 2) for found in _delegated(all_ranks)}
            continue
        for controller in controllers.split(","):
            if controller in _CONTROLLERS and (home := _make(below)):
                limiting[_CONTROLLERS[controller]] = home, 1
    return Cgroups(all_ranks, limiting)


def _make(directory: Path) -> Path | None:
    try:
        directory.mkdir(exist_ok=True)
    except OSError:
        return None
    return directory if os.access(directory, os.W_OK) else None


def _delegated(directory: Path) -> list[str]:
    """Return the controllers of version 2 that can limit ranks below this directory."""
    found = []
    for controller in _CONTROLLERS:
        try:
            for above in (directory.parent, directory):
                switches = above / "cgroup.subtree_control"
                if controller not in switches.read_text().split():
                    switches.write_text(f"+{controller}")
        except OSError:  # missing, not delegated, or the group holds processes (only leaves may)
            continue
        found.append(controller)
    return found


def _mounts(root: Path) -> dict[str, Path]:
    """Return where each hierarchy is mounted, by its controllers as in /proc/self/cgroup; "" is version 2."""
    found: dict[str, Path] = {}
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        kind, _, options = after.split(" ", 2)
        mounted_root, mount = before.split()[3:5]
        if mounted_root != "/":
            continue  # only a part of it is mounted: paths in /proc/self/cgroup do not apply
        if kind == "cgroup2":
            found[""] = Path(mount)
        elif kind == "cgroup":
            names = [word for word in options.split(",") if word in ("memory", "cpu", "cpuacct")]
            found |= {",".join(names): Path(mount), ",".join(reversed(names)): Path(mount)} if names else {}
    return found
