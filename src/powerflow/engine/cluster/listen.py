"""Make links: accept agents that dial in over TCP, or connect to the socket of an agent on this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.frames import StreamLink
from powerflow.engine.cluster.link import Link
from powerflow.engine.cluster.sealed import NotGenuine
from powerflow.engine.protocol import EngineError
from powerflow.errors import InputError

#: Wait before the next attempt to reach an agent of this machine, seconds.
_AGAIN_S = 0.1


class AgentListener:
    """Listens for agents of other machines, and gives their links to an engine.

    Args:
        engine: The engine.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        InputError: The address cannot be used.

    Attributes:
        port: The port.
    """

    def __init__(self, engine: ClusterEngine, host: str, port: int) -> None:
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            self._server = engine.run(asyncio.start_server(self._accept, host, port))
        except OSError as error:
            raise InputError(
                f"cannot listen for agents on {host}:{port} ({error.strerror or error})", exit_code=1
            ) from None
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening. Agents that have joined stay."""
        self._engine.loop.call_soon_threadsafe(self._server.close)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = str(writer.get_extra_info("peername")[0])
        link = StreamLink(reader, writer, host)
        try:
            await serve_shown(self._engine, link, f"agent at {host}")
        finally:
            link.close()


async def serve_shown(engine: ClusterEngine, link: Link, what: str) -> None:
    """Serve a link until it ends; show operators why an agent could not join."""
    try:
        await engine.serve(link, lambda: engine.refused(what, ""))
    except (NotGenuine, EngineError) as error:
        engine.refused(what, str(error))
    except (TimeoutError, ConnectionError, OSError):
        pass


async def keep_connected(engine: ClusterEngine, path: Path, ensure: Callable[[], None]) -> None:
    """Keep a link to the agent that listens on a socket of this machine, for ever.

    Args:
        engine: The engine.
        path: The socket.
        ensure: Starts the agent if it does not run; called in a thread when it cannot be reached.
    """
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(str(path))
            link = StreamLink(reader, writer, str(path))
            try:
                await serve_shown(engine, link, f"agent at {path}")
            finally:
                link.close()
        await asyncio.get_running_loop().run_in_executor(None, ensure)
        await asyncio.sleep(_AGAIN_S)
