"""Bound the number of connections, and how long each may take over every part of a request.

uvicorn closes a connection that is idle between two requests, and nothing else: who sends the head of a request byte by
byte, or never reads the answer, keeps a file descriptor for ever, and some hundred of those stop the service for
everybody (slowloris). Here every part of a request has a time limit, and all connections together are fewer than the
files that the process may open. When they are full, the newcomer takes the place of the connection that has waited
longest without a request at work, from the address that holds the most: whoever opens many displaces only themselves.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

#: How often connections are looked at.
_LOOK_S = 0.5
#: Never fewer connections than this, however few files the process may open.
_LEAST = 16
_MOST = 1024


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        most: Connections at once.
        per_address: Connections at once from one address.
        head_s: From the connection, or the last answer, to the end of a request's head.
        body_s: From there to the end of its body.
        answer_s: Until the client has taken an answer.
        linger_s: A request that was answered before its end was sent (it was refused) may go on for so long.
    """

    most: int
    per_address: int
    head_s: float = 10.0
    body_s: float = 30.0
    answer_s: float = 60.0
    linger_s: float = 5.0

    @staticmethod
    def of_process() -> ConnectionLimits:
        """Return limits that leave half of the files that this process may open to everything else."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MOST if files == resource.RLIM_INFINITY else min(_MOST, max(_LEAST, files // 2))
        return ConnectionLimits(most=most, per_address=most - most // 4)


def bounded(limits: ConnectionLimits) -> type[H11Protocol]:
    """Return a class of connections that share these limits, for uvicorn's ``http=``."""
    crowd = Crowd(limits)

    class Limited(BoundedConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(crowd, *args, **kwargs)

    return Limited


class BoundedConnection(H11Protocol):
    """A connection that `Crowd` may close. Times are the event loop's seconds.

    Attributes:
        address: Of the peer.
        since_s: When the present part of a request began.
    """

    def __init__(self, crowd: Crowd, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = crowd
        self._part = ""
        self.address = ""
        self.since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if there is room for it."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.since_s = self.loop.time()
        if not self._crowd.enter(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._crowd.leave(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Count the time to the next head from here, also where it is the same part of a pipelined request."""
        self.since_s = self.loop.time()
        super().on_response_complete()

    def part(self) -> str:
        """Return the part of a request this connection is at: ``head``, ``body``, ``work``, ``answer`` or ``rest``."""
        cycle = self.cycle
        if self.transport.get_write_buffer_size() > 0:
            return "answer"
        if cycle is None or cycle.response_complete:
            return "rest" if cycle is not None and cycle.more_body else "head"
        return "body" if cycle.more_body and not cycle.response_started else "work"

    def overdue(self, now_s: float, limits: ConnectionLimits) -> bool:
        """Return whether the present part has taken too long; note when a new part began."""
        part = self.part()
        if part != self._part:
            self._part, self.since_s = part, now_s if self._part else self.since_s
        most_s = {
            "head": limits.head_s,
            "body": limits.body_s,
            "answer": limits.answer_s,
            "rest": limits.linger_s,
        }.get(part)
        return most_s is not None and now_s - self.since_s > most_s


class Crowd:
    """All connections of a server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._all: dict[BoundedConnection, None] = {}  # in order of arrival
        self._from: Counter[str] = Counter()
        self._looking = False

    def enter(self, new: BoundedConnection) -> bool:
        """Take a connection in, closing an idle one if all places are taken; False if none of those is idle."""
        own_full = self._from[new.address] >= self._limits.per_address
        if own_full or len(self._all) >= self._limits.most:
            crowded = new.address if own_full else self._from.most_common(1)[0][0]
            idle = [other for other in self._all if other.address == crowded and other.part() not in ("work", "body")]
            if not idle and not own_full:
                idle = [other for other in self._all if other.part() not in ("work", "body")]
            if not idle:
                return False
            oldest = min(idle, key=lambda other: other.since_s)
            self.leave(oldest)
            oldest.transport.abort()
        self._all[new] = None
        self._from[new.address] += 1
        if not self._looking:
            self._looking = True
            new.loop.call_later(_LOOK_S, self._look, new.loop)
        return True

    def leave(self, gone: BoundedConnection) -> None:
        """Forget a connection; does nothing the second time."""
        if gone in self._all:
            del self._all[gone]
            self._from[gone.address] -= 1
            self._from += Counter()  # drops addresses of which there are none

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for connection in list(self._all):
            if connection.overdue(now_s, self._limits):
                self.leave(connection)
                connection.transport.abort()
        self._looking = bool(self._all)
        if self._looking:
            loop.call_later(_LOOK_S, self._look, loop)
