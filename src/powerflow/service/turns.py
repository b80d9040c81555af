"""Let users take turns, so that the requests of one user do not delay those of others.

A limited number of threads work on requests, and the database allows only one write at a time. Without turns, many
submissions of one user would occupy all threads, and nobody else could even read.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Limit the number of requests that are processed at a time. Waiting users take turns.

    All calls must come from the same event loop.

    Args:
        at_once: Largest number of requests that are processed at a time.
        each: Largest number of these that belong to one user.
    """

    def __init__(self, at_once: int, each: int) -> None:
        self._at_once, self._each = at_once, each
        self._busy = 0
        self._of: Counter[str] = Counter()  # requests that are worked on, by user
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # in the order in which users get their next turn

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait until a request of this user may be processed. The turn ends with the ``with`` block."""
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
            if mine.done() and not mine.cancelled():  # it got a turn just before the cancellation
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
        """Give a turn to the first waiting request of a user, and put the user at the end of the queue of users."""
        queue = self._queues.pop(user)
        while queue:
            first = queue.popleft()
            if not first.done():
                self._take(user)
                first.set_result(None)
                break
        if queue:
            self._queues[user] = queue
