"""Serve users in rotation: a user who sends many requests waits in a queue of their own.

Requests are worked on by a bounded number of threads, and writes wait for one another in the database. Without turns a
flood of one user's submissions would hold every thread, and nobody else could even read.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """At most ``at_once`` requests are worked on, ``each`` of them of one user; others wait, user by user in rotation.

    For one event loop.

    Args:
        at_once: Requests of all users.
        each: Requests of one user.
    """

    def __init__(self, at_once: int, each: int) -> None:
        self._at_once, self._each = at_once, each
        self._busy = 0
        self._of: Counter[str] = Counter()  # at work, by user
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # in the order in which users get their next turn

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for a turn of this user's, and hold it."""
        if self._busy < self._at_once and self._of[user] < self._each and user not in self._queues:
            self._take(user)
        else:
            await self._wait(user)
        try:
            yield
        finally:
            self._give_back(user)

    async def _wait(self, user: str) -> None:
        queue = self._queues.setdefault(user, deque())
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was given a turn in this very moment
                self._give_back(user)
            elif mine in queue:
                queue.remove(mine)
                if not queue:
                    self._queues.pop(user, None)
            raise

    def _take(self, user: str) -> None:
        self._busy += 1
        self._of[user] += 1

    def _give_back(self, user: str) -> None:
        self._busy -= 1
        self._of[user] -= 1
        if not self._of[user]:
            del self._of[user]
        for waiting in list(self._queues):
            if self._busy >= self._at_once:
                return
            if self._of[waiting] < self._each:
                self._next(waiting)

    def _next(self, user: str) -> None:
        """Give the first of a user's waiting requests its turn, and put the user at the end of the rotation."""
        queue = self._queues.pop(user)
        while queue:
            first = queue.popleft()
            if not first.done():
                self._take(user)
                first.set_result(None)
                break
        if queue:
            self._queues[user] = queue
