"""Limit the number of connections, and the time that each part of a request may take.

uvicorn closes only connections that are idle between two requests. A client that sends the head of a request byte by
byte, or never reads the answer, would keep a file descriptor for ever. A few hundred such clients would stop the
service for everybody (the attack *slowloris*). Here every part of a request has a time limit, and the number of
connections is limited to half of the files that the process may open. If the limit is reached, a new connection
replaces an idle one of the client with the most connections. So a client that opens many connections loses only its
own.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds between two checks of all connections.
_LOOK_S = 0.5
#: Never fewer connections than this, however few files the process may open.
_LEAST = 16
_MOST = 1024


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits for the connections of the API: their number, and seconds for each part of a request.

    Attributes:
        most: Largest number of connections.
        per_address: Largest number of connections from one address.
        head_s: Longest time from the start of the connection (or from the previous answer) to the end of the head.
        body_s: Longest time from the end of the head to the end of the body.
        answer_s: Longest time until the client has received an answer.
        linger_s: Longest time for which a client may continue to send a request that was already refused.
    """

    most: int
    per_address: int
    head_s: float = 10.0
    body_s: float = 30.0
    answer_s: float = 60.0
    linger_s: float = 5.0

    @staticmethod
    def of_process() -> ConnectionLimits:
        """Return limits under which connections use at most half of the files that this process may open."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MOST if files == resource.RLIM_INFINITY else min(_MOST, max(_LEAST, files // 2))
        return ConnectionLimits(most=most, per_address=most - most // 4)


def bounded(limits: ConnectionLimits) -> type[H11Protocol]:
    """Return a connection class for uvicorn's option ``http``. Its connections share these limits."""
    crowd = Crowd(limits)

    class Limited(BoundedConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(crowd, *args, **kwargs)

    return Limited


class BoundedConnection(H11Protocol):
    """Connection with time limits. `Crowd` closes it if it is too slow. Times are seconds of the event loop's clock.

    Attributes:
        address: Address of the client.
        since_s: When the present part of the request began.
    """

    def __init__(self, crowd: Crowd, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = crowd
        self._part = ""
        self.address = ""
        self.since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register a new connection, or close it at once if too many are open."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.since_s = self.loop.time()
        if not self._crowd.enter(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the list of open connections."""
        self._crowd.leave(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Start the time limit for the head of the next request, which the client may have sent already."""
        self.since_s = self.loop.time()
        super().on_response_complete()

    def part(self) -> str:
        """Return the present part of the request: ``head``, ``body``, ``work``, ``answer`` or ``rest``.

        ``work`` means that the answer is being computed, ``rest`` that the client still sends an answered request.
        """
        cycle = self.cycle
        if self.transport.get_write_buffer_size() > 0:
            return "answer"
        if cycle is None or cycle.response_complete:
            return "rest" if cycle is not None and cycle.more_body else "head"
        return "body" if cycle.more_body and not cycle.response_started else "work"

    def overdue(self, now_s: float, limits: ConnectionLimits) -> bool:
        """Return True if the present part of the request has taken too long.

        If a new part has begun since the last call, its time is counted from this call on.
        """
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
    """All open connections of a server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._all: dict[BoundedConnection, None] = {}  # in order of arrival
        self._from: Counter[str] = Counter()
        self._looking = False

    def enter(self, new: BoundedConnection) -> bool:
        """Register a new connection. If too many are open, close an idle one.

        Returns:
            False if too many are open and none is idle. Then the new one is not registered.
        """
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
        """Remove a connection from the open ones. A second call does nothing."""
        if gone in self._all:
            del self._all[gone]
            self._from[gone.address] -= 1
            self._from += Counter()  # removes addresses without connections

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for connection in list(self._all):
            if connection.overdue(now_s, self._limits):
                self.leave(connection)
                connection.transport.abort()
        self._looking = bool(self._all)
        if self._looking:
            loop.call_later(_LOOK_S, self._look, loop)
