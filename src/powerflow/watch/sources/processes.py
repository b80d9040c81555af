"""Find out from the processes on a GPU which job holds it: where no scheduler can be asked.

A process's control group (``/proc/PID/cgroup``) tells its job in Slurm, its pod in Kubernetes or its container. A
process of none of these belongs to its session: what a user has started in one shell. The user is the owner of the
process.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from powerflow.device.foreign import SERVICES
from powerflow.osutil.processes import stat_fields
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob

#: Kinds of jobs that a control group names, and how, in the order in which they are tried.
_GROUPS = (
    ("slurm", re.compile(r"/job_(\d+)(?:/|$)")),
    ("pod", re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")),
    ("container", re.compile(r"(?:docker|cri-containerd|crio|libpod|containerd)[-/:]([0-9a-f]{12,64})")),
    ("container", re.compile(r"/(?:docker|lxc(?:\.payload)?)[./]([^/]+)")),
)
_SHORT = 12


class HasPids(Protocol):
    """Knows the processes on each GPU of this machine, as of the last reading."""

    @property
    def pids(self) -> Mapping[GpuAddress, tuple[int, ...] | None]:
        """Pids by GPU; None if the driver does not tell."""


class ProcessOwners:
    """The processes on this machine's GPUs, as a source of owners.

    Another user's process may be hidden (``hidepid``, another container); then its GPU is in use by nobody known, and a
    note says so.
    """

    name = "the processes on the GPUs"

    def __init__(self, gpus: HasPids, proc: Path = Path("/proc")) -> None:
        self._gpus = gpus
        self._proc = proc

    def look(self, now_s: float) -> OwnersLook:
        """Return who computes on the GPUs, as of their last reading (Unix seconds)."""
        jobs: dict[str, WatchedJob] = {}
        holdings: list[Holding] = []
        hidden = untold = 0
        for gpu, pids in self._gpus.pids.items():
            untold += pids is None
            here: dict[str, WatchedJob] = {}
            for pid in pids or ():
                job = self._job(pid, now_s)
                hidden += job is None
                if job is not None and not job.name.startswith(SERVICES):
                    first = here.get(job.key)
                    here[job.key] = job if first is None or job.start_s < first.start_s else first
            for key, job in here.items():
                known = jobs.get(key)
                jobs[key] = job if known is None or job.start_s < known.start_s else known
                holdings.append(Holding(key, gpu, job.start_s, None))
        notes = []
        if hidden:
            notes.append(f"{hidden} processes on GPUs are hidden from this user; their energy is nobody's")
        if untold:
            notes.append(f"the driver does not tell the processes of {untold} GPUs")
        return OwnersLook(now_s, jobs, holdings, notes)

    def _job(self, pid: int, now_s: float) -> WatchedJob | None:
        """Return the job of a process; None if the process cannot be seen."""
        folder = self._proc / str(pid)
        try:
            group = (folder / "cgroup").read_text("utf-8", "replace")
            name = (folder / "comm").read_text("utf-8", "replace").strip()
            uid = folder.stat().st_uid
            fields = stat_fields(pid) if self._proc == Path("/proc") else (folder / "stat").read_bytes().split()[2:]
        except OSError:
            return None
        if not fields:
            return None
        user = _user(uid)
        for kind, pattern in _GROUPS:
            if found := pattern.search(group):
                id = found[1].replace("_", "-")
                start_s = now_s if kind == "slurm" else self._began(fields, now_s)
                return WatchedJob(f"{kind}:{id}", id if kind == "slurm" else id[:_SHORT], start_s, name=name, user=user)
        session = int(fields[3])
        return WatchedJob(f"session:{uid}:{session}", str(session), self._began(fields, now_s), name=name, user=user)

    def _began(self, fields: list[bytes], now_s: float) -> float:
        """Return when a process began, Unix seconds."""
        up_s = float((self._proc / "uptime").read_text().split()[0])
        return min(now_s - up_s + int(fields[19]) / os.sysconf("SC_CLK_TCK"), now_s)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
