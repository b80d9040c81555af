"""Let one controller at a time work on a store: a claim that lasts for a lease.

A controller on another machine that is merely slow must not be taken for dead, so its claim holds until its lease is
over. A controller that was killed on this machine is not waited for: its process is gone, and the system says so.
"""

from __future__ import annotations

import os
import platform
import secrets

from sqlalchemy import delete, select, update

from powerflow.osutil.processes import boot_id, born, lives
from powerflow.store.database import Database
from powerflow.store.schema import claims


class LeaderLease:
    """The claim on one store.

    Args:
        database: The store's. Once its ``owner`` is set here, each of its writes checks that the claim still is that
            owner's: a controller that slept past its lease cannot write over its successor.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Become the one controller for ``lease_s``; False while another is."""
        mine_or_over = (claims.c.owner == owner) | (claims.c.until_s <= now_s)
        with self._database.write() as connection:
            row = {"id": 1, "owner": owner, "until_s": now_s + lease_s}
            connection.execute(self._database.upsert(claims, ("id",), ("owner", "until_s"), where=mine_or_over), row)
            claimed = connection.scalar(select(claims.c.owner)) == owner
        if claimed:
            self._database.owner = owner
        return claimed

    def take(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Become the one controller as `claim` does, without waiting for one that has died on this machine."""
        if self.claim(owner, lease_s, now_s):
            return True
        other = self.claimed_by()
        if other is None or not is_dead(other):
            return False
        self.give_back(other)  # does nothing where another newcomer was faster
        return self.claim(owner, lease_s, now_s)

    def renew(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Prolong a claim, even one that is over, if nobody else has claimed the store since."""
        with self._database.write() as connection:
            mine = update(claims).where(claims.c.owner == owner).values(until_s=now_s + lease_s)
            return connection.execute(mine).rowcount == 1

    def claimed_by(self) -> str | None:
        """Return the owner of the latest claim, also of one that is over; None after it was given back."""
        with self._database.read() as connection:
            return connection.scalar(select(claims.c.owner))

    def give_back(self, owner: str) -> None:
        """End the claim of an owner; does nothing if it is another's."""
        with self._database.write() as connection:
            connection.execute(delete(claims).where(claims.c.owner == owner))
        if self._database.owner == owner:
            self._database.owner = None


def own_name() -> str:
    """Return a name of this process that no other controller ever has: host, boot, PID namespace, PID, start time."""
    pid = os.getpid()
    return f"{platform.node()}:{_pid_namespace()}:{pid}:{born(pid)}:{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Return whether the process with this name has certainly ended; False where that cannot be known from here."""
    parts = owner.split(":")
    if len(parts) != 5 or parts[1] != _pid_namespace() or not (parts[2].isdigit() and parts[3].isdigit()):
        return False
    return not lives(int(parts[2]), int(parts[3]))


def _pid_namespace() -> str:
    """Return a name of this boot and its PID namespace (a container has its own): within it a PID means one process."""
    try:
        return f"{boot_id()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"unknown/{secrets.token_hex(4)}"
