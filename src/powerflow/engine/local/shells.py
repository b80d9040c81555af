"""Open a shell beside a rank of this machine: ask the rank's shim for it, and keep the other ends of its files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerflow.engine.local.shell_host import SOCKET
from powerflow.engine.protocol import EngineError
from powerflow.engine.shells import ShellSpec, Terminal

#: Longest wait for the shim to start the command.
_START_S = 3.0
#: Input flag: an erased character may have several bytes (UTF-8). `termios` does not have it.
_IUTF8 = 0o40000


@dataclass(frozen=True, slots=True)
class OpenShell:
    """The ends of a shell's files that belong to whoever opened it. None of them blocks.

    Attributes:
        connection: Connection to the shim, which says here how the command ended; closing it hangs the command up.
        stdin: Descriptor to write input to.
        outputs: Descriptors to read from, by the stream: 1 for stdout (or for a terminal), 2 for stderr.
        terminal: True if all of them are one terminal.
    """

    connection: socket.socket
    stdin: int
    outputs: Mapping[int, int]
    terminal: bool

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal; its programs get SIGWINCH."""
        if self.terminal:
            termios.tcsetwinsize(self.stdin, (rows, columns))


def open_shell(directory: Path, spec: ShellSpec) -> OpenShell:
    """Start a command beside a rank.

    Args:
        directory: Directory of the rank's records.
        spec: What to run.

    Raises:
        EngineError: The rank does not run, or its shim refuses.
    """
    ours, theirs = _terminal(spec.terminal) if spec.terminal else _pipes()
    try:
        connection = _asked(directory, spec, theirs)
    except BaseException:
        _close(ours)
        raise
    finally:
        _close(theirs)
    for descriptor in ours:
        os.set_blocking(descriptor, False)
    connection.setblocking(False)
    outputs = {1: ours[1]} if spec.terminal else {1: ours[1], 2: ours[2]}
    return OpenShell(connection, ours[0], outputs, spec.terminal is not None)


def _asked(directory: Path, spec: ShellSpec, files: list[int]) -> socket.socket:
    """Return a connection to the shim of a rank, which has started the command."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_START_S)
    request = {"command": spec.command, "terminal": spec.terminal.kind if spec.terminal else None}
    line = json.dumps(request).encode() + b"\n"
    try:
        _connect(connection, directory)
        sent = socket.send_fds(connection, [line], files)
        if sent < len(line):  # nothing must be sent after all: the shim may have answered and closed the connection
            connection.sendall(line[sent:])
        answer = _answer(connection)
    except (FileNotFoundError, ConnectionError) as error:
        connection.close()
        raise EngineError(_why(directory, spec)) from error
    except OSError as error:  # it has been stopped, for example
        connection.close()
        raise EngineError(f"rank {spec.rank} does not answer ({error})", retry=True) from error
    if "error" in answer:
        connection.close()
        raise EngineError(str(answer["error"]))
    return connection


def _connect(connection: socket.socket, directory: Path) -> None:
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # through the descriptor: the kernel takes no socket path of more than about 107 bytes
        connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
    finally:
        os.close(folder)


def _answer(connection: socket.socket) -> dict[str, Any]:
    """Return the shim's first line, and leave what follows in the connection."""
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            raise ConnectionResetError("the shim has closed the connection")
        line += piece
    answer: dict[str, Any] = json.loads(line)
    return answer


def _why(directory: Path, spec: ShellSpec) -> str:
    """Return why the shim of a rank cannot be reached."""
    lives = (directory / "process.json").exists() and not (directory / "status.json").exists()
    if lives and not (directory / SOCKET).exists():
        return (
            f"rank {spec.rank} was started by a version of PowerFlow that has no shells; "
            "it can have some when it is started again"
        )
    return f"rank {spec.rank} does not run any more"


def _terminal(terminal: Terminal) -> tuple[list[int], list[int]]:
    """Return the ends of a new terminal: twice our own (to write and to read), and the command's."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (terminal.rows, terminal.columns))
    flags = termios.tcgetattr(slave)
    flags[0] |= _IUTF8
    termios.tcsetattr(slave, termios.TCSANOW, flags)
    return [master, fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 0)], [slave]


def _pipes() -> tuple[list[int], list[int]]:
    """Return the ends of three new pipes: our own of stdin, stdout and stderr, and the command's."""
    (stdin, write), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
    return [write, out, err], [stdin, stdout, stderr]


def _close(files: list[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
