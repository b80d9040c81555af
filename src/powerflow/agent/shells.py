"""Open shells beside the ranks of this machine, and hang up those for which nobody asks any more."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

from powerflow.agent.shell_session import ShellSession
from powerflow.engine.cluster.shells import output_row, spec_from_row
from powerflow.engine.local.shells import OpenShell
from powerflow.engine.shells import SILENT_S, NoShell, ShellOutput, Shells, ShellSpec

Answer = dict[str, Any]


class LocalShells:
    """The shells of this machine: a `Shells`. Use it in one event loop only.

    Args:
        open_shell: Starts a command beside a rank; it may wait, and is called in a thread.
        silent_s: A shell is hung up if nobody has asked for it for this long.
    """

    def __init__(self, open_shell: Callable[[ShellSpec], OpenShell], silent_s: float = SILENT_S) -> None:
        self._open_shell, self._silent_s = open_shell, silent_s
        self._sessions: dict[str, ShellSession] = {}
        self._opening: set[str] = set()

    async def open(self, shell: str, node: str, spec: ShellSpec) -> None:
        """Start a command beside a rank. See `Shells.open`."""
        if shell in self._sessions or shell in self._opening:
            return
        loop = asyncio.get_running_loop()
        self._opening.add(shell)
        try:
            session = ShellSession(await loop.run_in_executor(None, self._open_shell, spec))
            if shell not in self._opening:  # closed meanwhile
                session.close()
                return
            self._sessions[shell] = session
        finally:
            self._opening.discard(shell)
        loop.call_later(self._silent_s, self._look, shell)

    async def read(self, shell: str, after: int, wait_s: float) -> ShellOutput:
        """Return a piece of output. See `Shells.read`."""
        return await self._session(shell).read(after, wait_s)

    async def write(self, shell: str, offset: int, data: bytes, *, end: bool, wait_s: float) -> int:
        """Pass input to a command. See `Shells.write`."""
        return await self._session(shell).write(offset, data, end=end, wait_s=wait_s)

    async def resize(self, shell: str, rows: int, columns: int) -> None:
        """Change the size of a terminal."""
        self._session(shell).resize(rows, columns)

    def close(self, shell: str) -> None:
        """Hang a shell up, and forget it."""
        self._opening.discard(shell)
        if (session := self._sessions.pop(shell, None)) is not None:
            session.close()

    def close_all(self) -> None:
        """Hang all shells up: those who have asked for them are gone."""
        for shell in [*self._sessions, *self._opening]:
            self.close(shell)

    def _session(self, shell: str) -> ShellSession:
        if shell not in self._sessions:
            raise NoShell("the node does not know this shell any more")
        return self._sessions[shell]

    def _look(self, shell: str) -> None:
        """Hang a shell up if nobody has asked for it for a long time; otherwise look again later."""
        if (session := self._sessions.get(shell)) is None:
            return
        loop = asyncio.get_running_loop()
        left_s = session.asked_s + self._silent_s - loop.time()
        if left_s <= 0:
            self.close(shell)
        else:
            loop.call_later(left_s, self._look, shell)


def shell_verbs(shells: Shells) -> dict[str, Callable[[Answer], Awaitable[Answer]]]:
    """Return what an agent does with the orders of `powerflow.engine.cluster.shells`, by their names."""

    async def open_(order: Answer) -> Answer:
        await shells.open(order["shell"], "", spec_from_row(order["spec"]))
        return {}

    async def read(order: Answer) -> Answer:
        return output_row(await shells.read(order["shell"], int(order["after"]), float(order["wait_s"])))

    async def write(order: Answer) -> Answer:
        data = base64.b64decode(order["data"])
        at, end, wait_s = int(order["offset"]), bool(order["end"]), float(order["wait_s"])
        return {"offset": await shells.write(order["shell"], at, data, end=end, wait_s=wait_s)}

    async def resize(order: Answer) -> Answer:
        await shells.resize(order["shell"], int(order["rows"]), int(order["columns"]))
        return {}

    async def close(order: Answer) -> Answer:
        shells.close(order["shell"])
        return {}

    def known(verb: Callable[[Answer], Awaitable[Answer]]) -> Callable[[Answer], Awaitable[Answer]]:
        async def answer(order: Answer) -> Answer:
            try:
                return await verb(order)
            except NoShell:
                return {"no_shell": True}

        return answer

    verbs = {"open": open_, "read": read, "write": write, "resize": resize, "close": close}
    return {f"shell_{name}": known(verb) for name, verb in verbs.items()}
