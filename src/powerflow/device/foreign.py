"""Find processes on a GPU that belong to no job. A job's processes descend from its ranks or their shims (watchers)."""

from __future__ import annotations

import pwd
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from powerflow.osutil.processes import stat_fields

#: Services of the driver that compute for other processes. The driver lists these other processes, too.
SERVICES = ("nvidia-cuda-mps", "nvidia-persiste", "nv-hostengine")
#: Longest chain of parents that is followed.
MOST_PARENTS = 4096

#: Words in the names of containers' control groups (Docker, containerd, Podman, CRI-O, Kubernetes, LXC).
_CONTAINER = re.compile(r"docker|containerd|libpod|crio|kubepods|lxc")


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent; 0 if the process has ended or has no parent."""
    try:
        fields = stat_fields(pid)
    except OSError:  # the system hides other users' processes
        return 0
    return 0 if fields is None else int(fields[1])


def strangers(pids: Iterable[int], ours: Collection[int], *, spare_containers: bool = False) -> tuple[str, ...]:
    """Return the processes that belong to no job, as text such as "python (process 12 of ada)".

    Args:
        pids: Pids from the driver, as the host numbers them. If PowerFlow runs in a container, it may not know some
            pids; these are left out.
        ours: Pids of processes of jobs. All descendants of these processes belong to jobs, too.
        spare_containers: True to leave out processes in containers. A container of a job is started by a daemon, so its
            processes do not descend from the job.
    """
    found = []
    for pid in pids:
        name = _name(pid)
        if not name or name.startswith(SERVICES) or _descends(pid, ours) or (spare_containers and _is_contained(pid)):
            continue
        found.append(f"{name} (process {pid}{_of_user(pid)})")
    return tuple(found)


def _is_contained(pid: int) -> bool:
    """Return True if a process runs in a container other than the container of this process."""
    group = _group(pid)
    return bool(_CONTAINER.search(group)) and group != _group("self")


def _group(pid: int | str) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
    except OSError:
        return ""


def _descends(pid: int, ours: Collection[int]) -> bool:
    for _ in range(MOST_PARENTS):
        if pid in ours:
            return True
        pid = parent_of(pid)
        if pid <= 1:
            return False
    return False


def _name(pid: int) -> str:
    """Return the command name of a process, with ? for unprintable characters; "" if there is no such process."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return ""
    return "".join(letter if letter.isprintable() else "?" for letter in name) or "?"


def _of_user(pid: int) -> str:
    try:
        return f" of {pwd.getpwuid(Path(f'/proc/{pid}').stat().st_uid).pw_name}"
    except (OSError, KeyError):
        return ""
