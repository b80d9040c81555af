"""Pass sealed messages from the controller to the agent of one Ray node. This runs in an actor of Ray, on that node.

The agent is not a part of Ray. It is a process of its own with a socket, and its ranks run on if the actor, the raylet
or the whole of Ray ends. The actor starts an agent only if none runs. What it passes on, it cannot read or forge
(`powerflow.engine.cluster.sealed`), so the agent may belong to root although Ray must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from powerflow.engine.cluster.frames import StreamLink

#: Longest wait for an agent that was started.
START_S = 60.0
#: Socket of an agent that the site has started, as a service.
SERVICE = Path("/run/powerflow-agent/agent.sock")


class Relay:
    """The actor. Its methods may run at the same time.

    Args:
        directory: Folder of the agent that the actor starts if the site has started none. Variables of the node's
            environment in it are replaced, as in ``$TMPDIR/agent``.
        command: Command line of this agent, without the name of the interpreter, its folder and the join token.
        token: Join token as text, for this agent.
    """

    def __init__(self, directory: str, command: Sequence[str], token: str) -> None:
        self._directory, self._command, self._token = Path(os.path.expandvars(directory)), tuple(command), token
        self._link: StreamLink | None = None
        self._connecting = asyncio.Lock()

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Pass a message to the agent, and return its answer; b"" if the agent does not run or does not answer."""
        try:
            link = await self._connected()
            return await link.request(payload, timeout_s)
        except (OSError, TimeoutError):
            return b""

    async def _connected(self) -> StreamLink:
        async with self._connecting:
            if self._link is not None and self._link.alive:
                return self._link
            deadline_s, started = time.monotonic() + START_S, False
            while True:
                for path in (SERVICE, self._directory / "agent.sock"):
                    with contextlib.suppress(OSError):
                        self._link = StreamLink(*await asyncio.open_unix_connection(str(path)), str(path))
                        return self._link
                if SERVICE.exists() or time.monotonic() > deadline_s:
                    raise ConnectionRefusedError("the agent does not answer")
                if not started:
                    started = True
                    await asyncio.get_running_loop().run_in_executor(None, self._start)
                await asyncio.sleep(0.1)

    def _start(self) -> None:
        """Start the agent as a daemon: it must outlive this actor, so it is no child of it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        token = self._directory / "join-token"
        token.unlink(missing_ok=True)
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(self._token)
        log = os.open(self._directory / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            forked = "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    os.execv(sys.argv[1], sys.argv[1:])"
            own = ["--state-dir", str(self._directory), "--token-file", str(token)]
            if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) and "--emulate" not in self._command:
                own += ["--gpus", given]  # those that this actor holds: Ray may have been given fewer than there are
            words = [sys.executable, "-c", forked, sys.executable, *self._command, *own]
            subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, env=_environment())
        finally:
            os.close(log)


def _environment() -> dict[str, str]:
    """Return the environment of this process without the variables of Ray, which mean nothing to an agent."""
    of_ray = ("RAY_", "CUDA_VISIBLE_DEVICES")
    return {name: value for name, value in os.environ.items() if not name.startswith(of_ray)}
