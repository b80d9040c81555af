"""Define requests and answers about shells: commands that a user runs beside a rank of a job.

Input and output are bytes, which JSON has not: they are sent as text in base64.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from powerflow.api.field import NOTHING_ELSE, Field
from powerflow.errors import InputError

if TYPE_CHECKING:
    pass

#: Most bytes of input in one request, and most words of a command.
MOST_INPUT, MOST_WORDS = 1 << 16, 1024
#: Number of a rank (0 is the first), or its name.
RANK = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

_Size = Annotated[int, Field(ge=1, le=65535)]
_Bytes = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=2 * MOST_INPUT, examples=["bHMK"])]


@dataclass(frozen=True, slots=True)
class ShellTerminal:
    """Terminal of a user: its kind (the variable ``TERM``; "" if it is not known), and its size in characters."""

    __pydantic_config__ = NOTHING_ELSE

    kind: Annotated[str, Field(pattern=r"^[!-~]{0,64}$", examples=["xterm-256color"])]
    rows: _Size
    columns: _Size


@dataclass(frozen=True, slots=True)
class ShellOrder:
    """Request to run a command beside a rank of a job.

    Attributes:
        command: Program and its arguments; empty for the shell of the job's user.
        rank: Number of the rank, from 0, or its name.
        terminal: Terminal for the command; None for pipes, which keep stdout and stderr apart.
    """

    __pydantic_config__ = NOTHING_ELSE

    command: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[^\x00]*$")], ...],
        Field(max_length=MOST_WORDS, examples=[["nvidia-smi"]]),
    ] = ()
    rank: Annotated[str, Field(pattern=RANK, examples=["0"])] = "0"
    terminal: ShellTerminal | None = None


@dataclass(frozen=True, slots=True)
class ShellRecord:
    """A shell: its id, and the name and the node of the rank that it is beside."""

    id: str
    job_id: str
    rank: str
    node: str


@dataclass(frozen=True, slots=True)
class ShellPiece:
    """A piece of the output of a shell.

    Attributes:
        number: Number of this piece; send it as `after` to get the next piece.
        out, err: What the command wrote to stdout and stderr, in base64; a terminal has only `out`.
        ended: True if nothing follows.
        code: Exit code of the command; −N if signal N ended it. None if it has not ended, or was ended with its rank.
        why: Why it has ended, if its rank has ended or was told to end; otherwise "".
    """

    number: int
    out: str = ""
    err: str = ""
    ended: bool = False
    code: int | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ShellInput:
    """Request to pass input to a shell.

    Attributes:
        offset: Number of bytes of input before `data`. If some of it was passed before, it is not passed again.
        data: The input, in base64.
        end: True to close the command's stdin after this input. A terminal ignores this.
    """

    __pydantic_config__ = NOTHING_ELSE

    offset: Annotated[int, Field(ge=0, le=2**53)]
    data: _Bytes = ""
    end: Annotated[bool, Field(strict=True)] = False


@dataclass(frozen=True, slots=True)
class ShellTaken:
    """How many bytes of input a shell has taken in all. If it has not taken all of a request, send the rest again."""

    offset: int


@dataclass(frozen=True, slots=True)
class ShellSize:
    """Request to change the size of a terminal, in characters."""

    __pydantic_config__ = NOTHING_ELSE

    rows: _Size
    columns: _Size


def as_text(data: bytes) -> str:
    """Return bytes as text in base64."""
    return b64encode(data).decode()


def as_bytes(text: str) -> bytes:
    """Return the bytes that a text in base64 stands for.

    Raises:
        InputError: The text is not base64.
    """
    try:
        return b64decode(text, validate=True)
    except Error as error:
        raise InputError(f"is not base64 ({error})", where="data") from None
