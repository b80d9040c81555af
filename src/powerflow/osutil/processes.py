"""Which process is meant, and which boot: what a number alone cannot say, for numbers are used again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def born(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended (a zombie has).

    With its number this names a process for as long as the machine is up.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the command's name stands in brackets and may hold anything; state is field 3, start time field 22
    after_name = text[text.rindex(")") + 2 :].split()
    return None if after_name[0] in "ZX" else int(after_name[19])


def lives(pid: int, birth: int) -> bool:
    """Whether the process that had this number and started then still runs."""
    return pid > 0 and born(pid) == birth


def boottime_s() -> float:
    """Seconds since boot, those asleep included; no one can set it back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names this boot; "" where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
