"""Identify processes and boots. A pid alone does not: the kernel uses it again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def stat_fields(pid: int) -> list[bytes] | None:
    """Return the fields of ``/proc/PID/stat`` (see proc(5)) from the third, the state, on; None if there is no such
    process.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].split()  # the second is the command's name in brackets: it may hold anything


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if there is no such process.

    Pid and start time name one process until the machine is booted. A zombie, which has ended but was not waited for
    by its parent, still has a start time.
    """
    fields = stat_fields(pid)
    return None if fields is None else int(fields[19])


def born(pid: int) -> int | None:
    """Return when a running process started, as `start_ticks`; None for a zombie too."""
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in b"ZX" else int(fields[19])


def lives(pid: int, birth: int) -> bool:
    """Return whether the process of this pid and start time still runs."""
    return pid > 0 and born(pid) == birth


def boottime_s() -> float:
    """Return the seconds since boot, including sleep; nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the kernel's id of this boot; "" where it gives none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
