"""Control groups: what limits a rank's memory and CPUs, and finds its processes wherever they went.

Both versions are used as they are found. Version 2 (`cgroup2`) holds every rank's processes, so that they can be ended
even if all who watched them were killed. A limit needs its controller: in version 2 where it was delegated to us, else
in version 1 (a hierarchy of its own). Where a directory cannot be made there, that limit cannot be enforced.
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
_CONTROLLERS = {"memory": "memory", "cpu": "cpus"}  # the kernel's word, ours


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Directories under which ranks get theirs.

    Attributes:
        all_ranks: Version 2; None where it cannot be used.
        limiting: By what is limited (``memory``, ``cpus``): the directory, and the cgroup version it is in.
    """

    all_ranks: Path | None
    limiting: Mapping[str, tuple[Path, int]]

    def limits(self) -> frozenset[str]:
        """Which limits can be enforced."""
        return frozenset(self.limiting)

    def enter(self, rank: str, pid: int, *, memory_bytes: int, cpus: float) -> list[str]:
        """Put a process into groups of its rank, with these limits (0: none); the groups, for `kill` and `leave`.

        Raises:
            OSError: If a limit that can be enforced here was not.
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
        """Remove what was made for all ranks, as far as it is empty."""
        for above in {self.all_ranks, *(above for above, _ in self.limiting.values())} - {None}:
            assert above is not None
            with contextlib.suppress(OSError):
                above.rmdir()


def kill(groups: Sequence[str]) -> bool:
    """SIGKILL whatever is in these groups; whether there was anything.

    Version 2 can end all of a group at once (Linux 5.14), so that nobody forks faster than they are ended.
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
    """Remove these groups, as far as they are empty."""
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
    """Make the directories for an agent's ranks, below the agent's own groups.

    Args:
        name: Tells this agent's directories from others'.
        root: Where the system's files are.
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
    """Controllers of version 2 that ranks below this directory can be limited by."""
    found = []
    for controller in _CONTROLLERS:
        try:
            for above in (directory.parent, directory):
                switches = above / "cgroup.subtree_control"
                if controller not in switches.read_text().split():
                    switches.write_text(f"+{controller}")
        except OSError:  # not there, not delegated, or processes stand in the way (only leaves may hold them)
            continue
        found.append(controller)
    return found


def _mounts(root: Path) -> dict[str, Path]:
    """Where each hierarchy is mounted: by its controllers as /proc/self/cgroup writes them, "" for version 2."""
    found: dict[str, Path] = {}
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        kind, _, options = after.split(" ", 2)
        mounted_root, mount = before.split()[3:5]
        if mounted_root != "/":
            continue  # only a part is mounted here: paths in /proc/self/cgroup do not lead there
        if kind == "cgroup2":
            found[""] = Path(mount)
        elif kind == "cgroup":
            names = [word for word in options.split(",") if word in ("memory", "cpu", "cpuacct")]
            found |= {",".join(names): Path(mount), ",".join(reversed(names)): Path(mount)} if names else {}
    return found
