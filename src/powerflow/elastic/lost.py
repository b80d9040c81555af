"""Leave a process group whose ranks cannot be reached any more.

A killed process closes its connections, so its peers notice at once. A pulled cable or a machine without power closes
nothing: its peers would wait in their all-reduce for an hour. They cannot know by themselves that this wait is no
longer a slow rank. The controller names the ranks that it has given up (`powerflow.elastic.mailbox.Target.lost`).
"""

from __future__ import annotations

import contextlib

from powerflow.elastic import group, peer_sockets
from powerflow.elastic.gang import GangMember
from powerflow.elastic.mailbox import PATIENCE, FileWatch


class LostWatch:
    """Makes the collectives of a group fail if the controller has given up one of its ranks."""

    def __init__(self, gang: GangMember) -> None:
        self._gang = gang
        self._news = FileWatch(gang.mailbox.directory / PATIENCE)
        self._lost: tuple[int, frozenset[str]] = (0, frozenset())
        self._left: object = None  # connections of the group that was left last

    def look(self) -> None:
        """Make the collectives of the group fail if the controller has given up one of its ranks.

        The script then notices the loss in its next all-reduce, or in the one in which it waits, as if the rank had
        been killed. Call this about twice a second, from a thread other than the script's.
        """
        connections = peer_sockets.current()
        with contextlib.suppress(OSError, ValueError, TypeError):  # an unreadable file: look again when it changes
            if self._news.come():
                self._lost = self._gang.mailbox.lost()
        generation, names = self._lost
        target = self._gang.target
        if not self._gang.whole or target is None or target.generation >= generation:
            return
        if connections is not self._left and any(member.name in names for member in target.members):
            self._left = connections
            group.abandon(connections)
