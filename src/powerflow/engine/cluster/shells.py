"""Open shells beside the ranks of all machines, by orders to their agents."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from powerflow.engine.protocol import RankName
from powerflow.engine.shells import NoShell, ShellOutput, ShellSpec, Terminal

Row = dict[str, Any]


class ClusterShells:
    """The shells of all machines: a `Shells`. Any thread may use it.

    Args:
        ask: (node, order, seconds) Sends an order to the agent of a node, and returns its answer; it raises EngineError
            if the agent refuses, or does not answer in this time beside the time that an answer usually takes.
        send: (node, order) Sends an order when the agent answers.
    """

    def __init__(self, ask: Callable[[str, Row, float], Awaitable[Row]], send: Callable[[str, Row], None]) -> None:
        self._ask, self._send = ask, send
        self._nodes: dict[str, str] = {}  # by shell

    async def open(self, shell: str, node: str, spec: ShellSpec) -> None:
        """Start a command beside a rank of a node. See `Shells.open`."""
        self._nodes[shell] = node  # also if no answer comes: it may have been opened
        await self._ask(node, {"do": "shell_open", "shell": shell, "spec": spec_row(spec)}, 0.0)

    async def read(self, shell: str, after: int, wait_s: float) -> ShellOutput:
        """Return a piece of output. See `Shells.read`."""
        answer = await self._of(shell, {"do": "shell_read", "after": after, "wait_s": wait_s}, wait_s)
        return output_from_row(answer)

    async def write(self, shell: str, offset: int, data: bytes, *, end: bool, wait_s: float) -> int:
        """Pass input to a command. See `Shells.write`."""
        order = {"do": "shell_write", "offset": offset, "data": text(data), "end": end, "wait_s": wait_s}
        return int((await self._of(shell, order, wait_s))["offset"])

    async def resize(self, shell: str, rows: int, columns: int) -> None:
        """Change the size of a terminal."""
        await self._of(shell, {"do": "shell_resize", "rows": rows, "columns": columns}, 0.0)

    def close(self, shell: str) -> None:
        """Hang a shell up, and forget it."""
        if (node := self._nodes.pop(shell, None)) is not None:
            self._send(node, {"do": "shell_close", "shell": shell})

    async def _of(self, shell: str, order: Row, wait_s: float) -> Row:
        node = self._nodes.get(shell)
        answer = {"no_shell": True} if node is None else await self._ask(node, order | {"shell": shell}, wait_s)
        if answer.get("no_shell"):
            raise NoShell("the node does not know this shell any more")
        return answer


def spec_row(spec: ShellSpec) -> Row:
    """Return what to run, as JSON data."""
    terminal = spec.terminal
    size = None if terminal is None else [terminal.kind, terminal.rows, terminal.columns]
    return {"rank": str(spec.rank), "command": list(spec.command), "terminal": size}


def spec_from_row(row: Mapping[str, Any]) -> ShellSpec:
    """Return what to run, from JSON data of `spec_row`."""
    terminal = None if row["terminal"] is None else Terminal(*row["terminal"])
    return ShellSpec(RankName.parse(row["rank"]), tuple(row["command"]), terminal)


def output_row(output: ShellOutput) -> Row:
    """Return a piece of output as JSON data."""
    row = {"number": output.number, "out": text(output.out), "err": text(output.err)}
    return row | ({"ended": True, "code": output.code} if output.ended else {})


def output_from_row(row: Mapping[str, Any]) -> ShellOutput:
    """Return the piece of output that JSON data from `output_row` describe."""
    out, err = base64.b64decode(row["out"]), base64.b64decode(row["err"])
    return ShellOutput(int(row["number"]), out, err, bool(row.get("ended")), row.get("code"))


def text(data: bytes) -> str:
    """Return bytes as text (base64)."""
    return base64.b64encode(data).decode()
