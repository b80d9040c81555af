"""Carry requests and answers over a byte stream (TCP, or a Unix socket), any number of them at the same time.

Each frame is: length of the rest (4 bytes), number of the request (8 bytes), payload. The side that asks chooses the
number, and the answer has the same number. Payloads are sealed (`powerflow.engine.cluster.sealed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Awaitable, Callable

_HEAD = struct.Struct(">IQ")
#: Longest frame: a batch of launches with their environments, or a piece of a log.
MOST_BYTES = 64 << 20
#: Bytes that may wait to be sent before a peer counts as stuck.
_STUCK_BYTES = 8 << 20
#: Seconds without a word until the kernel asks whether the peer is still there.
_IDLE_S = 3


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return number and payload of the next frame.

    Raises:
        ConnectionError: The peer has closed the connection, or does not send frames.
    """
    try:
        length, number = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if length > MOST_BYTES:
            raise ConnectionResetError("the peer does not send frames")
        return number, await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("the peer has closed the connection") from None


def write_frame(writer: asyncio.StreamWriter, number: int, payload: bytes) -> None:
    """Queue a frame for sending.

    Raises:
        ConnectionError: The connection is closed, or its peer has taken nothing for too long.
    """
    if writer.is_closing() or writer.transport.get_write_buffer_size() > _STUCK_BYTES:
        raise ConnectionResetError("the connection is closed or stuck")
    writer.write(_HEAD.pack(len(payload), number) + payload)


class StreamLink:
    """The asking side of a stream, a `Link`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str) -> None:
        self.what = what
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._reading = asyncio.create_task(self._read(reader))
        tune(writer)

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Send a payload, and return the answer. See `Link.request`."""
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            write_frame(self._writer, number, payload)
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            del self._waiting[number]

    @property
    def alive(self) -> bool:
        """True until the connection has ended."""
        return not self._reading.done()

    async def closed(self) -> None:
        """Wait until the connection has ended."""
        with contextlib.suppress(ConnectionError, OSError, asyncio.CancelledError):
            await asyncio.shield(self._reading)

    def close(self) -> None:
        """End the connection."""
        self._reading.cancel()
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                number, payload = await read_frame(reader)
                if (answer := self._waiting.get(number)) is not None and not answer.done():
                    answer.set_result(payload)
        except (ConnectionError, OSError) as error:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionResetError(str(error)))
        finally:
            self._writer.close()


async def answer_frames(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[bytes], Awaitable[bytes]]
) -> None:
    """Answer the requests of a stream, each as soon as its answer is known, until the peer closes the connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int, payload: bytes) -> None:
        content = await answer(payload)
        with contextlib.suppress(ConnectionError):
            write_frame(writer, number, content)

    tune(writer)
    try:
        while True:
            task = asyncio.create_task(one(*await read_frame(reader)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    except (ConnectionError, OSError):
        pass
    finally:
        for task in tasks:
            task.cancel()
        writer.close()


def tune(writer: asyncio.StreamWriter) -> None:
    """Send small frames at once, and let the kernel notice within seconds that a peer is gone."""
    connection = writer.get_extra_info("socket")
    if connection is None or connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # a side that waits for a request has sent nothing that could stay unanswered: without probes it would wait for
    # hours after a partition in which the other side has given up
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
