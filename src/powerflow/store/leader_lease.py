"""Let only one controller at a time work on a store: the one that holds the lease, which is valid for a limited time.

A controller on another machine may only be slow. So a new controller is refused until the lease has expired. A
controller on this machine is different: the operating system shows if its process has ended, and then the new one takes
the lease at once.
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
    """The lease of one controller on one store.

    Args:
        database: Database of the store. `claim` sets its ``owner``; after that, each write checks that the owner still
            holds the lease. So a controller that was suspended for too long cannot overwrite data of the next one.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Take the lease for ``lease_s`` seconds; return False if another controller holds it."""
        mine_or_over = (claims.c.owner == owner) | (claims.c.until_s <= now_s)
        with self._database.write() as connection:
            row = {"id": 1, "owner": owner, "until_s": now_s + lease_s}
            connection.execute(self._database.upsert(claims, ("id",), ("owner", "until_s"), where=mine_or_over), row)
            claimed = connection.scalar(select(claims.c.owner)) == owner
        if claimed:
            self._database.owner = owner
        return claimed

    def take(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Take the lease as `claim` does, or from a controller that ran on this machine and whose process has ended.

        Returns:
            False if another controller works on the store, or may do so.
        """
        if self.claim(owner, lease_s, now_s):
            return True
        other = self.claimed_by()
        if other is None or not is_dead(other):
            return False
        self.give_back(other)  # does nothing if another new controller was faster
        return self.claim(owner, lease_s, now_s)

    def renew(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Extend the lease of ``owner``, even an expired one; return False if another controller has taken it."""
        with self._database.write() as connection:
            mine = update(claims).where(claims.c.owner == owner).values(until_s=now_s + lease_s)
            return connection.execute(mine).rowcount == 1

    def claimed_by(self) -> str | None:
        """Return the controller that took the lease last, even if it has expired.

        Return None if that controller has given the lease back, or if no controller ever took it.
        """
        with self._database.read() as connection:
            return connection.scalar(select(claims.c.owner))

    def give_back(self, owner: str) -> None:
        """End the lease of ``owner``. If another controller holds the lease, nothing happens."""
        with self._database.write() as connection:
            connection.execute(delete(claims).where(claims.c.owner == owner))
        if self._database.owner == owner:
            self._database.owner = None


def own_name() -> str:
    """Return a name for this process that no other process ever has.

    It contains the host, boot, PID namespace, PID, start time, and a random number.
    """
    pid = os.getpid()
    return f"{platform.node()}:{_pid_namespace()}:{pid}:{born(pid)}:{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Return True if the process with this name has certainly ended; False if it runs, or if this is not known."""
    parts = owner.split(":")
    if len(parts) != 5 or parts[1] != _pid_namespace() or not (parts[2].isdigit() and parts[3].isdigit()):
        return False
    return not lives(int(parts[2]), int(parts[3]))


def _pid_namespace() -> str:
    """Return a name for this boot of the machine and its PID namespace (a container has one of its own).

    Within this name, a PID stands for only one process at a time.
    """
    try:
        return f"{boot_id()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"unknown/{secrets.token_hex(4)}"
