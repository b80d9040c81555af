"""One controller at a time: who we are, and whether who had the store before us is dead.

A claim lasts for a lease, so that a controller on another machine that is merely slow is not taken for dead. One that
was killed on this machine need not be waited for: its process is gone, and the system says so.
"""

from __future__ import annotations

import os
import platform
import secrets

from powerflow.osutil.processes import boot_id, born, lives
from powerflow.store.store import Store


def own_name() -> str:
    """Names this process among all controllers there ever were: host, boot, space of process ids, process, birth."""
    pid = os.getpid()
    return f"{platform.node()}:{_space()}:{pid}:{born(pid)}:{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Whether the process with this name has ended for sure; False where that cannot be seen from here."""
    parts = owner.split(":")
    if len(parts) != 5 or parts[1] != _space() or not (parts[2].isdigit() and parts[3].isdigit()):
        return False
    return not lives(int(parts[2]), int(parts[3]))


def take(store: Store, owner: str, lease_s: float, now_s: float) -> bool:
    """Become the one controller of a store; False while another is."""
    if store.claim(owner, lease_s, now_s):
        return True
    other = store.claimed_by()
    if other is None or not is_dead(other):
        return False
    store.unclaim(other)  # only if it still is that one's: two of us may get here
    return store.claim(owner, lease_s, now_s)


def _space() -> str:
    """Names where a process id means what it means to us: this boot, and these ids (a container has its own)."""
    try:
        return f"{boot_id()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"unknown/{secrets.token_hex(4)}"
