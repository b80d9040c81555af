"""Reach the agents of a Ray cluster's nodes, through a process that has joined the cluster.

That process (`powerflow.engine.ray.gateway`) gives the controller a link to each node over a socket. It is a process of
its own because Ray ends every process that has joined when the cluster's head is lost. Then it is started again, until
there is a head again. Meanwhile no node answers, and all ranks run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.frames import StreamLink, read_frame
from powerflow.engine.cluster.listen import serve_shown
from powerflow.errors import InputError

#: Wait before a gateway that has ended is started again, seconds.
GATEWAY_AGAIN_S = 1.0
#: Longest wait for the end of a gateway, which is killed then.
GATEWAY_ENDS_S = 10.0
#: Longest path of the folder for temporary files: paths of sockets must be short.
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class RayAgents:
    """How agents are started on nodes of Ray where the site has started none.

    Attributes:
        directory: Folder of the agent on each node.
        arguments: Arguments of ``powerflow agent`` besides the name, the folder and the join token.
        gpus: Number of GPUs that an embedded Ray takes this machine to have; None to let Ray look for GPUs.
    """

    directory: str
    arguments: Sequence[str] = ()
    gpus: int | None = None


class RayMembership:
    """Give an engine a link to each node of a Ray cluster, until `close`.

    Args:
        engine: The engine.
        agents: How agents are started.
        address: Address of the Ray cluster, ``HOST:PORT``; None to start an embedded one on this machine.
        env: Environment of what joins Ray; None for that of this process.

    Raises:
        InputError: Ray is not installed, cannot be reached, or refuses this process.
    """

    def __init__(
        self, engine: ClusterEngine, agents: RayAgents, address: str | None, env: Mapping[str, str] | None = None
    ) -> None:
        self._env = env
        self._where = f"--ray-address {address}" if address else "--engine ray"
        if importlib.util.find_spec("ray") is None:
            fix = "pip install 'powerflow-scheduler[ray]'"
            raise InputError("needs Ray, which is not installed", where="--engine ray", fix=fix, exit_code=1)
        self._engine = engine
        self._folder = tempfile.TemporaryDirectory(
            prefix="powerflow-ray-", dir="/tmp" if len(tempfile.gettempdir()) > _LONGEST else None
        )
        path = Path(self._folder.name, "links")
        self._server = engine.run(asyncio.start_unix_server(self._accept, str(path)))
        self._order = {
            "path": str(path),
            "address": address,
            "directory": agents.directory,
            "arguments": list(agents.arguments),
            "gpus": agents.gpus,
            "token": engine.token.text(),
        }
        self._links: set[asyncio.Task[None]] = set()
        self._closing = threading.Event()
        self._gateway: subprocess.Popen[str] | None = None
        self._first: queue.SimpleQueue[str] | None = queue.SimpleQueue()  # why the first gateway could not join, or ""
        self._thread = threading.Thread(target=self._keep, name="powerflow-ray", daemon=True)
        self._thread.start()
        why, self._first = self._first.get(), None
        if why:
            self.close()
            raise InputError(f"Ray does not take this controller ({why})", where=self._where, exit_code=5)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closing.is_set()

    def close(self) -> None:
        """Leave the Ray cluster. Agents and ranks run on."""
        self._closing.set()
        if (gateway := self._gateway) is not None and gateway.stdin is not None:
            with contextlib.suppress(OSError):
                gateway.stdin.close()
        self._thread.join(GATEWAY_ENDS_S)
        if self._thread.is_alive() and self._gateway is not None:  # perhaps another one by now
            self._gateway.kill()
            self._thread.join()
        self._engine.loop.call_soon_threadsafe(self._server.close)
        self._folder.cleanup()

    def _keep(self) -> None:
        """Keep a gateway running."""
        while not self._closing.is_set():
            why = self._run_gateway()
            self._tell(why)
            self._closing.wait(GATEWAY_AGAIN_S)

    def _tell(self, why: str) -> None:
        """Tell the constructor, or else operators, why Ray cannot be reached; "" if it can."""
        if (first := self._first) is not None:
            first.put(why)
        elif not self.closed:
            self._engine.refused(self._where, f"Ray cannot be reached ({why}); ranks run on" if why else "")

    def _run_gateway(self) -> str:
        """Run a gateway until it ends, and return why it has ended."""
        argv = [sys.executable, "-m", "powerflow.engine.ray.gateway"]
        why, pipe = "it has ended, or has lost its head", subprocess.PIPE
        with subprocess.Popen(
            argv, env=self._env, text=True, start_new_session=True, stdin=pipe, stdout=pipe
        ) as gateway:
            self._gateway = gateway
            assert gateway.stdin is not None
            assert gateway.stdout is not None
            with contextlib.suppress(OSError):
                gateway.stdin.write(json.dumps(self._order) + "\n")
                gateway.stdin.flush()
            if self._closing.is_set():  # too early for `close` to see it
                gateway.stdin.close()
            for line in gateway.stdout:
                match _read(line):
                    case None:  # not ours: something that Ray prints when it is imported
                        pass
                    case {"refused": str(words)}:
                        why = words
                    case {"note": str(subject), "why": str(words)}:
                        self._engine.refused(subject, words)
                    case _:
                        self._tell("")
        return why

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._links.add(task)
        task.add_done_callback(self._links.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            what = (await read_frame(reader))[1].decode()
            link = StreamLink(reader, writer, what)
            try:
                await serve_shown(self._engine, link, what)
            finally:
                link.close()


def _read(line: str) -> dict[str, Any] | None:
    """Return what a gateway says; None if it is not the gateway that says it."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
