"""Let only one controller at a time work on a store: the one that holds the lease, which is valid for a limited time.

A slow controller on another machine must not be treated as dead, so a new controller waits until the lease is over. If
a controller on this machine was killed, the new one does not wait, because the operating system shows that the process
has ended.
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
        database: Database of the store. After `claim` has set the database's ``owner``, each write first checks that
            this owner still holds the lease. So a controller that was suspended for longer than its lease cannot
            overwrite data of the next controller.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Become the only controller of the store for ``lease_s`` seconds; return False if another controller is."""
        mine_or_over = (claims.c.owner == owner) | (claims.c.until_s <= now_s)
        with self._database.write() as connection:
            row = {"id": 1, "owner": owner, "until_s": now_s + lease_s}
            connection.execute(self._database.upsert(claims, ("id",), ("owner", "until_s"), where=mine_or_over), row)
            claimed = connection.scalar(select(claims.c.owner)) == owner
        if claimed:
            self._database.owner = owner
        return claimed

    def take(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Become the only controller of the store, as `claim` does, without waiting for the lease of a dead controller.

        The dead controller must have run on this machine.

        Returns:
            False if another controller is at work, or may be.
        """
        if self.claim(owner, lease_s, now_s):
            return True
        other = self.claimed_by()
        if other is None or not is_dead(other):
            return False
        self.give_back(other)  # does nothing if another new controller was faster
        return self.claim(owner, lease_s, now_s)

    def renew(self, owner: str, lease_s: float, now_s: float) -> bool:
        """Extend the lease of ``owner``; return False if another controller has taken over the store.

        A lease that is over can be extended, too.
        """
        with self._database.write() as connection:
            mine = update(claims).where(claims.c.owner == owner).values(until_s=now_s + lease_s)
            return connection.execute(mine).rowcount == 1

    def claimed_by(self) -> str | None:
        """Return the controller that took the lease last, even if this lease is over.

        The result is None if that controller has given the lease back, or if no controller ever took it.
        """
        with self._database.read() as connection:
            return connection.scalar(select(claims.c.owner))

    def give_back(self, owner: str) -> None:
        """End a controller's lease on the store. If another controller holds the lease, nothing happens."""
        with self._database.write() as connection:
            connection.execute(delete(claims).where(claims.c.owner == owner))
        if self._database.owner == owner:
            self._database.owner = None


def own_name() -> str:
    """Return a name for this process that no other controller ever has.

    It consists of host, boot and PID namespace, PID, start time, and a random number.
    """
    pid = os.getpid()
    return f"{platform.node()}:{_pid_namespace()}:{pid}:{born(pid)}:{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Return True if the controller's process with this name has certainly ended; False if this machine cannot know."""
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
