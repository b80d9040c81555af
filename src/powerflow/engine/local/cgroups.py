"""Limit memory and CPUs of ranks by control groups (cgroups), and find all processes of a rank, even detached ones.

Cgroup versions 1 and 2 are used where they are mounted. With version 2, a control group holds all processes of a rank,
so that they can be killed even if shim and fork server were killed. The kernel has one controller for memory and one
for CPUs. A limit uses the controller of version 2 if this user may. Otherwise it uses that of version 1, which has a
separate hierarchy for each controller. If the directory for a limit cannot be created, the limit cannot be enforced.
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
    """Directories in which each rank gets its control groups.

    Attributes:
        all_ranks: Directory in the hierarchy of cgroup version 2; None if version 2 cannot be used.
        limiting: Directory and its cgroup version, for each limit (``memory``, ``cpus``) that can be enforced.
    """

    all_ranks: Path | None
    limiting: Mapping[str, tuple[Path, int]]

    def limits(self) -> frozenset[str]:
        """Return the limits that can be enforced: ``memory``, ``cpus``, both or none."""
        return frozenset(self.limiting)

    def enter(self, rank: str, pid: int, *, memory_bytes: int, cpus: float) -> list[str]:
        """Put a process into the control groups of its rank; return the groups, for `kill` and `leave`.

        A rank without a limit of memory gets a group of this controller, too, if that is possible. It tells whether the
        kernel has killed a process of the rank for lack of memory.

        Args:
            rank: Name of the rank.
            pid: The process.
            memory_bytes: Limit of memory; 0 for none.
            cpus: Limit of CPUs; 0 for none.

        Raises:
            OSError: A limit that this machine can enforce could not be set.
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
        return groups + self._counted(rank, pid, groups)

    def _counted(self, rank: str, pid: int, groups: Sequence[str]) -> list[str]:
        """Put a process into a group of the controller for memory, if it is in none; return this group."""
        if "memory" not in self.limiting:
            return []
        home = self.limiting["memory"][0] / rank
        if str(home) in groups:
            return []
        try:
            home.mkdir(exist_ok=True)
            (home / "cgroup.procs").write_text(str(pid))
        except OSError:
            leave([str(home)])
            return []
        return [str(home)]

    def close(self) -> None:
        """Remove the cgroup directories of this fork server, if they are empty."""
        for above in {self.all_ranks, *(above for above, _ in self.limiting.values())} - {None}:
            assert above is not None
            with contextlib.suppress(OSError):
                above.rmdir()


def kill(groups: Sequence[str]) -> bool:
    """Kill all processes in these control groups. Return True if there were any.

    Cgroup version 2 can kill a group at once (Linux 5.14 or later), so that a job cannot create processes faster than
    they are killed.
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


def killed_for_memory(groups: Sequence[str]) -> bool | None:
    """Return True if the kernel has killed a process of these control groups for lack of memory; None if none counts.

    The count is in ``memory.events`` of cgroup version 2, and in ``memory.oom_control`` of version 1.
    """
    known: bool | None = None
    for group in groups:
        for file in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                counts = dict(line.split() for line in Path(group, file).read_text().splitlines())
                known = known or int(counts.get("oom_kill", "")) > 0
    return known


def leave(groups: Sequence[str]) -> None:
    """Remove the given control groups, except groups that still hold processes."""
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
    """Create the directories for the control groups of a fork server's ranks, below the fork server's own control
    groups.

    Args:
        name: Unique name of the fork server.
        root: Root directory of the file system.
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
    """Return the controllers of cgroup version 2 that can limit ranks below this directory."""
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
    """Return the folder at which each cgroup hierarchy is mounted.

    The key is the hierarchy's list of controllers, as in /proc/self/cgroup; it is "" for cgroup version 2.
    """
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
