"""Copy a rank's output to the file that its user has named, in addition to its log.

The rank opens the file, after it has become its user and entered its directory, so that it has the user's rights. It
hands the open file to its shim, which writes to it: what the rank does with its own stdout changes nothing.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

from powerflow.engine.local.logs import LogWriter


class Handed(NamedTuple):
    """An open file (None: no file), and why there is none ("" if none was named)."""

    file: int | None
    why: str


def open_output(path: str) -> Handed:
    """Open a file for appending, and create it if it does not exist."""
    try:  # without O_NONBLOCK, a pipe that nobody reads would stop the rank for ever
        return Handed(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "")
    except (OSError, ValueError) as error:
        return Handed(None, f"powerflow: cannot write to {path}: {getattr(error, 'strerror', None) or error}\n")


def hand_over(to: socket.socket, file: int | None, why: str) -> None:
    """Send what `open_output` returned to the shim, and close the file here."""
    socket.send_fds(to, [why.encode("utf-8", "replace")[:4096] or b" "], [] if file is None else [file])
    if file is not None:
        os.close(file)


def receive(source: socket.socket) -> Handed:
    """Return what the rank has handed over, and close the socket. The rank must have begun its command."""
    with source:
        try:
            why, files, _, _ = socket.recv_fds(source, 4096, 1, socket.MSG_DONTWAIT)
        except OSError:
            return Handed(None, "")
        return Handed(files[0] if files else None, why.decode().strip(" "))


class CopiedLog:
    """Writer of a rank's log and of the user's file.

    Output that the file does not take (its disk is full, or the user's quota) is in the log only, which says so once.

    Args:
        directory: Directory of the log.
        handed: The user's file.
    """

    def __init__(self, directory: Path, handed: Handed) -> None:
        self._log, self._file, self._failed = LogWriter(directory), handed.file, False
        if handed.why:
            self._log.write(handed.why.encode())

    def write(self, data: bytes) -> None:
        """Append bytes to the log and to the file."""
        self._log.write(data)
        if self._file is None:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._log.write(f"powerflow: output is missing in its file: {error.strerror}\n".encode())
