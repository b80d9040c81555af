"""Define shells: commands that users run beside a rank, and that count as a part of the rank.

A shell has the user, the environment, the working directory and the control groups of its rank, and ends with it. Not
every engine can open shells: `Engine.shells` is None if it cannot.

Reading and writing may be repeated, because an answer may get lost: output is numbered, and input has offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from powerflow.engine.protocol import EngineError, RankName

#: A shell is hung up if nobody has asked for it for this long, seconds.
SILENT_S = 60.0
#: Most bytes of output in one answer.
PIECE_BYTES = 1 << 16


class NoShell(EngineError):
    """Error: the node does not know the shell. It was hung up, or the node's agent was started again."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal: its kind (the variable ``TERM``; "" to set none), and its size in characters."""

    kind: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class ShellSpec:
    """What to run beside a rank.

    Attributes:
        rank: Name of the rank.
        command: Program and its arguments; empty for the shell of the rank's user.
        terminal: Terminal of the command; None for pipes.
    """

    rank: RankName
    command: tuple[str, ...] = ()
    terminal: Terminal | None = None


@dataclass(frozen=True, slots=True)
class ShellOutput:
    """A piece of the output of a shell.

    Attributes:
        number: Number of this piece. The next piece is asked for with this number.
        out, err: Bytes from stdout and stderr; a terminal has only ``out``.
        ended: True if nothing follows: the command has ended, or was ended with its rank.
        code: Exit code of the command; −N if signal N ended it. None if it has not ended, or was ended with its rank.
    """

    number: int
    out: bytes = b""
    err: bytes = b""
    ended: bool = False
    code: int | None = None


class Shells(Protocol):
    """An object that opens shells beside ranks, each under a name that its caller chooses.

    The coroutines may be awaited in any event loop, and do not block it. Each may raise `EngineError` (the node does
    not answer, or refuses), and all but `open` raise `NoShell`.
    """

    async def open(self, shell: str, node: str, spec: ShellSpec) -> None:
        """Start a command beside a rank of a node. If the node knows a shell of this name already, do nothing."""
        ...

    async def read(self, shell: str, after: int, wait_s: float) -> ShellOutput:
        """Return the piece of output after piece number ``after`` (0 for the first).

        Only the last piece can be asked for again. If there is no output, wait for it; after ``wait_s`` return a piece
        without output that has the number ``after``.
        """
        ...

    async def write(self, shell: str, offset: int, data: bytes, *, end: bool, wait_s: float) -> int:
        """Pass input to a command; return how many bytes it has got, or will get, in all.

        That may be less than ``offset`` and the length of ``data`` together: if the command does not read, its buffer
        gets full. Wait then until there is room for a part, but no longer than ``wait_s``.

        Args:
            shell: Name of the shell.
            offset: Number of bytes before ``data``.
            data: The input. Bytes that were passed before are left out.
            end: True to close the command's stdin after this input. A terminal ignores this.
            wait_s: Longest wait.
        """
        ...

    async def resize(self, shell: str, rows: int, columns: int) -> None:
        """Change the size of a terminal."""
        ...

    def close(self, shell: str) -> None:
        """Hang a shell up, and forget it. This does not wait for the node."""
        ...
