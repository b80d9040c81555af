"""Use the user's terminal: its size, and a mode in which every key goes to a program on another machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType

#: Size of a terminal that does not know it.
_ROWS, _COLUMNS = 24, 80


def has_terminal() -> bool:
    """Return True if a user types into stdin and looks at stdout."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def size() -> tuple[int, int]:
    """Return rows and columns of the terminal."""
    try:
        columns, rows = os.get_terminal_size(sys.stdin.fileno())
    except OSError:
        columns, rows = 0, 0
    return rows or _ROWS, columns or _COLUMNS


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Let every key through, Ctrl-C too, during a ``with`` block; then restore the terminal."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        # at once: output that a stopped terminal does not take would hold up the end for ever
        termios.tcsetattr(terminal, termios.TCSANOW, before)


@contextlib.contextmanager
def resizing(changed: Callable[[], None]) -> Iterator[None]:
    """Call a function whenever the terminal gets another size, during a ``with`` block. Use it in the main thread."""
    before = signal.signal(signal.SIGWINCH, lambda number, frame: changed())
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a ``with`` block as an exception does, so that it is cleaned up. For the main thread.

    The exit code is then that of a process that was ended by the signal.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
