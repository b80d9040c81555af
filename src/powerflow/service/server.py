"""Serve the REST API from a thread of the controller's process."""

from __future__ import annotations

import errno
import socket
import threading
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from powerflow.errors import InputError
from powerflow.service.connections import ConnectionLimits, bounded

#: Seconds after `ApiServer.stop` at which unfinished requests are cut off.
GRACE_S = 3
#: Connections that the kernel holds until they are taken, and how many of them are taken at one go: the event loop
#: takes all of a go before it looks at any of them, and each is an open file.
_BACKLOG, _GO = 1024, 32


class _Listening(uvicorn.Server):
    """uvicorn server whose queue of new connections is longer than the number that uvicorn accepts at one time."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(_BACKLOG)


def take_port(host: str, port: int) -> socket.socket:
    """Return a socket with an address and port on which nobody listens. It does not listen yet.

    Another program may still begin to listen there before this one does.

    Raises:
        InputError: The address or port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named TCP, or asyncio leaves Nagle's algorithm on and every answer waits 40 ms for an acknowledgement
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        raise _cannot_listen(host, port, error) from error
    return taken


def _cannot_listen(host: str, port: int, error: OSError) -> InputError:
    why = (error.strerror or str(error)).lower()
    elsewhere = error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror)
    fix = "give an address of this machine" if elsewhere else "choose another port"
    return InputError(f"cannot listen ({why})", where=f"{host}:{port}", fix=fix, exit_code=1)


class ApiServer:
    """HTTP server for the REST API. As a context manager, it starts and stops the server.

    Args:
        app: The application from `powerflow.service.app.build_app`.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        limits: Limits for connections; None derives them from the number of files that the process may open.
        taken: The socket of this host and port (`take_port`), which the server closes at its end; None to take it.
    """

    def __init__(
        self,
        app: FastAPI,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: ConnectionLimits | None = None,
        taken: socket.socket | None = None,
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._socket = taken
        self._thread: threading.Thread | None = None
        self._server = _Listening(
            uvicorn.Config(
                app,
                http=bounded(limits or ConnectionLimits.of_process()),
                loop="asyncio",
                ws="none",
                backlog=_GO,
                proxy_headers=False,  # `peers` believes named proxies only
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        # the process handles signals: uvicorn does so only in the main thread, and this server runs in another one

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._socket.getsockname()[1]) if self._socket else self._port

    @property
    def url(self) -> str:
        """URL of the REST API."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    def start(self) -> None:
        """Listen on the port and start a thread that serves requests. The server listens when this method returns.

        Raises:
            InputError: The server cannot listen on this address and port.
        """
        if self._socket is None:
            self._socket = take_port(self._host, self._port)
        try:
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            self._socket = None
            raise _cannot_listen(self._host, self._port, error) from error
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="powerflow-api", daemon=True
        )
        self._thread.start()

    def hang_up(self) -> None:
        """Begin to stop: finish the present requests and accept no new ones. This method returns at once."""
        self._app.state.stopping = True
        self._server.should_exit = True

    def stop(self) -> None:
        """Finish the present requests and stop the server, within `GRACE_S` + 1 seconds. A second call does nothing."""
        self.hang_up()
        if self._thread is not None:
            self._thread.join(GRACE_S + 1)
            self._thread = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
