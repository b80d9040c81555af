"""Choose where the ranks of a script meet, and detect if they have connected to each other ("met").

If the ranks do not meet, each rank runs the whole script, so the script is stopped. Ranks that meet have connections:
first to a store that listens on ``MASTER_PORT``, then between their processes (gloo, NCCL). Both are visible in
``/proc``, in whatever language the script is written. Processes that cannot be inspected (of another user or another
machine) are not judged.
"""

from __future__ import annotations

import os
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

#: Seconds between two looks into the processes; a look at the port alone costs less, and is taken each time.
LOOK_S = 5.0
#: A process that began at least this many seconds before or after its rank is another one with the same number.
SAME_S = 60.0

#: Ports that no system gives to outgoing connections (Linux takes those from 32768 on).
_LEAST, _COUNT = 20_000, 12_000


class MeetingState(Enum):
    """States of the connection between the ranks of a script."""

    MET = "met"
    APART = "apart"
    UNKNOWN = "unknown"


class RankProcess(NamedTuple):
    """The first process of a rank: its process number, and when it was started (Unix seconds)."""

    pid: int
    started_s: float


#: (first processes of the ranks, whether each of them is a launcher of several) → whether they have met
MeetingProbe = Callable[[Sequence[RankProcess], bool], MeetingState]


@dataclass(slots=True)
class Meeting:
    """Observe if the ranks of one launch of a script have connected to each other ("met").

    Attributes:
        look: Looks into the processes.
        port: Port on which the ranks meet.
        launched: True if the processes are launchers, each of which starts several ranks. Then connections between the
            launchers themselves do not count.
        since_s: When this launch was first watched.
        whole: True if this launch was watched from its beginning.
        seen: Result of the last check.
    """

    look: MeetingProbe
    port: int
    launched: bool
    since_s: float
    whole: bool
    seen: MeetingState = MeetingState.UNKNOWN
    _looked_s: float = -1e9

    def watch(self, ranks: Sequence[RankProcess], now_s: float, *, at_once: bool = False) -> MeetingState:
        """Check if the ranks have met, and return the result.

        There is no new check after the ranks have met, or within `LOOK_S` seconds of the last check.

        Args:
            ranks: First processes of the ranks that run.
            now_s: The present time, on the clock of ``since_s``.
            at_once: Look into the processes now, even if the last look was a moment ago.
        """
        if self.seen is MeetingState.MET:
            return self.seen
        if not self.launched and port_is_known(self.port):
            self.seen = MeetingState.MET
        elif ranks and (at_once or now_s - self._looked_s >= LOOK_S):
            self._looked_s = now_s
            self.seen = self.look(ranks, self.launched)
        return self.seen


def look(ranks: Sequence[RankProcess], launched: bool) -> MeetingState:
    """Return whether processes of different ranks are connected; UNKNOWN if a process cannot be inspected.

    A launcher has several ranks among its child processes. So with launchers, every connection between two processes
    counts, except a connection between two launchers.

    Args:
        ranks: First processes of the ranks.
        launched: True if these processes are launchers.
    """
    owner: dict[int, int] = {}  # socket → process
    group: dict[int, int] = {}  # process → rank
    children = _children()
    for number, rank in enumerate(ranks):
        if not _is_same(rank):
            return MeetingState.UNKNOWN
        for pid in _tree(rank.pid, children):
            try:
                sockets = _sockets(pid)
            except FileNotFoundError:
                continue  # it has just ended
            except OSError:
                return MeetingState.UNKNOWN
            group[pid] = number
            owner.update(dict.fromkeys(sockets, pid))
    firsts = {rank.pid for rank in ranks}
    ends = {(local, remote): owner[inode] for local, remote, inode in _connections() if inode in owner}
    for (local, remote), pid in ends.items():
        other = ends.get((remote, local))
        if other is None or other == pid:
            continue
        if launched and not (pid in firsts and other in firsts):
            return MeetingState.MET
        if not launched and group[pid] != group[other]:
            return MeetingState.MET
    return MeetingState.APART


def port_is_known(port: int) -> bool:
    """Return True if a TCP connection of this machine uses this port at either end, or did within the last minute."""
    ending = f":{port:04X}"
    return any(local.endswith(ending) or remote.endswith(ending) for local, remote, _ in _connections())


def free_port() -> int:
    """Return a port of this machine on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_of(job_id: str, launch: int) -> int:
    """Return the port of one launch of a job on other machines, which nobody can probe from here.

    The next launch has the next port, so that a port that is taken there is not tried again.
    """
    return _LEAST + (zlib.crc32(job_id.encode()) + launch) % _COUNT


def _connections() -> Iterable[tuple[str, str, int]]:
    """Yield both ends of each TCP socket in the kernel's hexadecimal form, and its inode (0: closed a moment ago)."""
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield _mapped(fields[1]), _mapped(fields[2]), int(fields[9])


def _mapped(end: str) -> str:
    """Return an IPv4 address that an IPv6 socket shows as plain IPv4: the socket at the other end may show it so."""
    return end[24:] if end.startswith("0000000000000000FFFF0000") else end


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                stat = Path("/proc", entry, "stat").read_text("utf-8", "replace")
            except OSError:
                continue
            found.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    return found


def _tree(pid: int, children: dict[int, list[int]]) -> list[int]:
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _sockets(pid: int) -> set[int]:
    """Return the inodes of a process's sockets.

    Raises:
        OSError: The process has ended, or may not be inspected.
    """
    found = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def _is_same(rank: RankProcess) -> bool:
    """Return True if the process with a rank's process number is still the process that was started for the rank."""
    try:
        stat = Path("/proc", str(rank.pid), "stat").read_text("utf-8", "replace")
    except OSError:
        return False
    ticks = int(stat.rpartition(")")[2].split()[19])
    up_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    began_s = time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")
    return abs(began_s - rank.started_s) < SAME_S
