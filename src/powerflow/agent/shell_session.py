"""Keep one shell of this machine: buffer its output and its input, and say how it ended.

Both buffers are bounded. While nobody takes the output, it is not read from the command, which then has to wait. While
the command does not read, its input is not taken from whoever writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable

from powerflow.engine.local.shells import OpenShell
from powerflow.engine.protocol import EngineError
from powerflow.engine.shells import PIECE_BYTES, ShellOutput

#: Most bytes of output, and of input, that are buffered.
MOST_OUTPUT, MOST_INPUT = 4 * PIECE_BYTES, PIECE_BYTES


class ShellSession:
    """A shell of this machine. Use it in one event loop only, the one in which it was made.

    Args:
        shell: The shell.

    Attributes:
        asked_s: When somebody last asked for this shell, on the clock of the event loop.
    """

    def __init__(self, shell: OpenShell) -> None:
        self._shell, self._loop = shell, asyncio.get_running_loop()
        self._open = dict(shell.outputs)  # descriptors that may still have output, by stream
        self._buffers = {1: bytearray(), 2: bytearray()}
        self._piece = ShellOutput(0)
        self._acknowledged = True
        self._over = False  # the command has ended
        self._closed = False
        self._code: int | None = None
        self._said = bytearray()  # by the shim
        self._stdin: int | None = shell.stdin
        self._input = bytearray()
        self._taken = 0  # bytes of input, in all
        self._input_ends = False
        self._news = asyncio.Event()
        self.asked_s = self._loop.time()
        self._loop.add_reader(shell.connection, self._hear)
        self._resume()

    async def read(self, after: int, wait_s: float) -> ShellOutput:
        """Return a piece of output. See `Shells.read`.

        Raises:
            EngineError: There is no such piece any more.
        """
        self.asked_s = self._loop.time()
        if after == self._piece.number:
            self._acknowledged = True
        elif after != self._piece.number - 1:
            raise EngineError(f"piece {after} of the output is not the last one")
        await self._until(lambda: not self._acknowledged or self._has_output or self._ended, wait_s)
        if self._acknowledged and (self._has_output or self._ended) and after == self._piece.number:
            self._cut()
        return ShellOutput(after) if self._acknowledged else self._piece

    async def write(self, offset: int, data: bytes, *, end: bool, wait_s: float) -> int:
        """Take input, as much as there is room for. See `Shells.write`.

        Raises:
            EngineError: Earlier input is missing.
        """
        self.asked_s = self._loop.time()
        if offset > self._taken:
            raise EngineError(f"input from byte {self._taken} on is missing")
        await self._until(lambda: self._stdin is None or len(self._input) < MOST_INPUT, wait_s)
        rest = data[max(0, self._taken - offset) :]
        if self._stdin is None:  # nobody reads it
            self._taken += len(rest)
            return self._taken
        taken = rest[: MOST_INPUT - len(self._input)]
        self._input += taken
        self._taken += len(taken)
        self._input_ends |= end and len(taken) == len(rest) and not self._shell.terminal
        self._flush()
        return self._taken

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal."""
        self.asked_s = self._loop.time()
        if self._stdin is not None:
            with contextlib.suppress(OSError):
                self._shell.resize(rows, columns)

    def close(self) -> None:
        """End the command as a closed terminal does. Requests that wait for its output return at once."""
        self._closed = True
        self._end()
        for stream in list(self._open):
            self._drop(stream)
        self._news.set()

    @property
    def _has_output(self) -> bool:
        return any(self._buffers.values())

    @property
    def _ended(self) -> bool:
        return self._closed or (self._over and not self._open)

    def _cut(self) -> None:
        """Make the next piece of what is buffered."""
        parts, room = {}, PIECE_BYTES
        for stream, buffer in self._buffers.items():
            parts[stream] = bytes(buffer[:room])
            room -= len(parts[stream])
            del buffer[: len(parts[stream])]
        self._resume()
        ended = self._ended and not self._has_output
        code = self._code if ended else None
        self._piece = ShellOutput(self._piece.number + 1, parts[1], parts[2], ended, code)
        self._acknowledged = False
        self._news.set()  # whoever asked for the same piece

    async def _until(self, done: Callable[[], bool], wait_s: float) -> None:
        end_s = self._loop.time() + wait_s
        while not done() and (left_s := end_s - self._loop.time()) > 0:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)

    # -- output -------------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Read from the command, or what it has left behind, as long as there is room."""
        if self._over:
            for stream in list(self._open):
                while stream in self._open and self._has_room and self._take(stream):
                    pass
        elif self._has_room:
            for stream, descriptor in self._open.items():
                self._loop.add_reader(descriptor, self._take, stream)

    @property
    def _has_room(self) -> bool:
        return sum(map(len, self._buffers.values())) < MOST_OUTPUT

    def _take(self, stream: int) -> bool:
        """Read from the command; return False if there is nothing to read now."""
        try:
            data = os.read(self._open[stream], PIECE_BYTES)
        except BlockingIOError:
            if self._over:  # only processes that the command has left behind could still write
                self._drop(stream)
            return False
        except OSError:  # a terminal that no process has open
            data = b""
        if not data:
            self._drop(stream)
            return False
        self._buffers[stream] += data
        if not self._has_room:
            for descriptor in self._open.values():
                self._loop.remove_reader(descriptor)
        self._news.set()
        return True

    def _drop(self, stream: int) -> None:
        descriptor = self._open.pop(stream)
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        self._news.set()

    def _hear(self) -> None:
        """Hear from the shim how the command has ended; the end of the connection says that the rank has ended."""
        try:
            said = self._shell.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._said += said
        if said and not self._said.endswith(b"\n"):
            return
        with contextlib.suppress(ValueError, KeyError):
            self._code = int(json.loads(self._said)["code"])
        self._end()
        self._resume()
        self._news.set()

    def _end(self) -> None:
        """Let go of everything but the output that is left."""
        if self._over:
            return
        self._over = True
        self._loop.remove_reader(self._shell.connection)
        self._shell.connection.close()
        self._close_stdin()
        for descriptor in self._open.values():
            self._loop.remove_reader(descriptor)

    # -- input --------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write buffered input to the command, as much as it takes."""
        if self._stdin is None:
            return
        try:
            while self._input:
                del self._input[: os.write(self._stdin, self._input)]
        except BlockingIOError:
            self._loop.add_writer(self._stdin, self._flush)
            self._news.set()
            return
        except OSError:  # it has closed its stdin
            self._close_stdin()
            return
        self._loop.remove_writer(self._stdin)
        if self._input_ends:
            self._close_stdin()
        self._news.set()

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = None
            self._input.clear()
            self._news.set()
