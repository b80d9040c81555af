"""Carry what a user types to a shell beside a rank, and what it writes to the user.

Two threads send requests, each over a connection of its own: this one passes input on, another one asks for output.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from contextlib import closing, suppress
from typing import Any, BinaryIO, TypeVar

from powerflow.api import operations as ops
from powerflow.api.operations import Operation
from powerflow.api.records import NodeAway
from powerflow.api.shells import MOST_INPUT, ShellInput, ShellPiece, ShellRecord, ShellSize, as_bytes, as_text
from powerflow.cli import terminal
from powerflow.cli.cluster.client import ControllerClient
from powerflow.errors import InputError

#: Seconds that a request for output waits for some, and until a controller that does not answer counts as lost.
WAIT_S, SILENT_S = 10.0, 20.0
#: How long a request is repeated that was lost, or whose node does not answer, and how often.
PATIENCE_S, _AGAIN_S = 10.0, 0.2
#: Longest wait for the answer when the shell is closed.
CLOSE_S = 3.0

Answer = TypeVar("Answer")


class ShellClient:
    """A user's end of a shell. Use it in the main thread.

    Args:
        controller: The controller.
        shell: The shell, which was just opened.
        is_terminal: True if the shell has a terminal, so that its size follows that of the user's.
    """

    def __init__(self, controller: ControllerClient, shell: ShellRecord, *, is_terminal: bool) -> None:
        self._controller, self._is_terminal = controller, is_terminal
        self._names: dict[str, Any] = {"job_id": shell.job_id, "shell": shell.id}
        self._asking = controller.lasting(PATIENCE_S, SILENT_S)
        self._sending = controller.lasting(PATIENCE_S, SILENT_S)
        self._sent = 0  # bytes of input
        self._last: ShellPiece | None = None
        self._failure: BaseException | None = None
        self._size_changed = False
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def run(self) -> ShellPiece:
        """Pass input and output on until the shell ends; return its last piece of output.

        However this ends, the shell is hung up.

        Raises:
            InputError: The controller is lost, or has hung the shell up.
            BrokenPipeError: Nobody reads the output any more.
        """
        follower = threading.Thread(target=self._follow, name="powerflow-shell", daemon=True)
        follower.start()
        try:
            self._pass_input()
        finally:
            self._hang_up()
            if self._is_over():  # otherwise the process ends, with the other thread
                follower.join()
                self._asking.close()
                os.close(self._woken)
                os.close(self._wake)
            self._sending.close()
        if self._last is None:
            assert self._failure is not None
            raise self._failure
        return self._last

    def size_changed(self) -> None:
        """Tell that the user's terminal has another size. A signal handler may call this."""
        self._size_changed = True
        self._ring()

    def _is_over(self) -> bool:
        return self._last is not None or self._failure is not None

    def _hang_up(self) -> None:
        """Hang the shell up, unless it is not there any more, or cannot be reached."""
        if isinstance(self._failure, InputError) and not isinstance(self._failure, NodeAway):
            return
        with closing(self._controller.lasting(0.0, CLOSE_S)) as client, suppress(InputError):
            client.ask(ops.CLOSE_SHELL, **self._names)

    def _ask(self, client: ControllerClient, operation: Operation[Answer], body: object = None, **given: Any) -> Answer:
        """Send a request that may be repeated, and return its answer; wait a while for a node that does not answer."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return client.ask(operation, body, repeatable=True, **self._names, **given)
            except NodeAway:
                if time.monotonic() > until:
                    raise
            time.sleep(_AGAIN_S)

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # it will wake anyway
            os.write(self._wake, b"x")

    # -- input --------------------------------------------------------------------------------------------------------

    def _pass_input(self) -> None:
        """Pass input on until the shell has ended."""
        stdin = None if sys.stdin is None else sys.stdin.fileno()
        if stdin is None:
            self._send(b"", end=True)
        while not self._is_over():
            ready, _, _ = select.select([self._woken, *([] if stdin is None else [stdin])], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
            if self._size_changed and self._is_terminal:
                self._size_changed = False
                self._resize()
            if stdin in ready and not self._is_over():
                data = os.read(stdin, MOST_INPUT)
                if not data and self._is_terminal:
                    raise InputError("the terminal was closed", exit_code=1)
                self._send(data, end=not data)
                stdin = stdin if data else None

    def _send(self, data: bytes, *, end: bool) -> None:
        """Send input, as slowly as the shell takes it."""
        while not self._is_over():
            given = ShellInput(self._sent, as_text(data), end)
            try:
                taken = self._ask(self._sending, ops.SHELL_INPUT, given).offset
            except InputError as error:
                self._failure = self._failure or error
                return
            data, self._sent = data[taken - self._sent :], taken
            if not data:
                return

    def _resize(self) -> None:
        with suppress(InputError):  # if the controller is lost, the other thread says so
            self._ask(self._sending, ops.RESIZE_SHELL, ShellSize(*terminal.size()))

    # -- output -------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        try:
            self._last = self._output()
        except BaseException as error:  # raised again in the main thread
            self._failure = error
        self._ring()

    def _output(self) -> ShellPiece:
        """Write the output of the shell until it ends; return its last piece."""
        after = 0
        while True:
            piece = self._ask(self._asking, ops.SHELL_OUTPUT, after=after, wait_s=WAIT_S)
            _write(sys.stdout.buffer, piece.out)
            _write(sys.stderr.buffer, piece.err)
            after = piece.number
            if piece.ended:
                return piece


def _write(stream: BinaryIO, text: str) -> None:
    if text:
        stream.write(as_bytes(text))
        stream.flush()
