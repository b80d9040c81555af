"""Identify processes, and boots of the machine.

A pid (process number) alone does not identify a process, because the kernel uses the same pid again later.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

#: Variable that tells a process that it is not a rank, although it has the environment of one: it is in a shell beside.
BESIDE_RANK = "POWERFLOW_SHELL"


def stat_fields(pid: int) -> list[bytes] | None:
    """Return the fields of ``/proc/PID/stat`` (see proc(5)) from the third on. The third is the state of the process.

    Returns:
        The fields; None if there is no process with this pid.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].split()  # the second is the command's name in brackets: it may hold anything


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process, in clock ticks since boot; None if there is no such process.

    Pid and start time together identify one process until the next boot. A zombie (a process that has ended and whose
    parent has not yet read its exit code) still has a start time.
    """
    fields = stat_fields(pid)
    return None if fields is None else int(fields[19])


def born(pid: int) -> int | None:
    """Return the start time of a running process, in clock ticks since boot.

    Returns:
        The start time; None if there is no such process, or if the process has ended and is a zombie.
    """
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in b"ZX" else int(fields[19])


def lives(pid: int, birth: int) -> bool:
    """Return True if the process with this pid and this start time (``birth``, from `born`) still runs."""
    return pid > 0 and born(pid) == birth


def boottime_s() -> float:
    """Return the seconds since boot, including the time in which the machine slept; no user can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the kernel's id of the current boot; "" if the kernel gives none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
