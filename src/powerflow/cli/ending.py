"""End the process in limited time, even if a store, a driver, an agent or a request hangs.

A thread cannot be ended from outside, so an orderly end waits for all threads. If this takes too long, the process is
ended by force, and a line says where each thread was. Nothing is lost: jobs run in other processes, the store is
transactional, and the device watchdog or the next controller takes care of GPU clocks.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

#: Most seconds from a signal until the process is gone, and seconds until it is ended by force.
LIMIT_S = 10.0
FORCE_S = 9.0
#: Exit code of an end by force.
FORCED = 1


class Ending:
    """Time limit for the end of this process; it starts with `begin`.

    Args:
        force_s: Seconds after which the process is ended by force.
        exit: Function that ends the process at once.
        stream: Stream to which the reason for an end by force is written.
    """

    def __init__(
        self,
        force_s: float = FORCE_S,
        exit: Callable[[int], object] = os._exit,
        stream: TextIO | None = None,
    ) -> None:
        self._force_s = force_s
        self._exit = exit
        self._stream = stream or sys.stderr
        self._what = ""
        self._until_s = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._over = False

    def begin(self, what: str, more_s: float = 0.0) -> None:
        """Start the time limit for a part of the end of this process. Each further call starts the limit of a next
        part.

        Args:
            what: What the process waits for in this part, for the message.
            more_s: Additional seconds for this part.
        """
        with self._changed:
            self._what = what
            self._until_s = time.monotonic() + self._force_s + more_s
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="powerflow-ending", daemon=True)
                self._thread.start()
        if self._exit is os._exit:  # in case a hanging library lets not even this thread run
            faulthandler.dump_traceback_later(self._force_s + more_s + LIMIT_S - FORCE_S, exit=True)

    def now(self, what: str) -> None:
        """Change the text that says what the process waits for. The time limit does not change."""
        with self._changed:
            self._what = what

    def done(self) -> None:
        """Cancel the time limit. Call this if the process has ended normally, or if it continues."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._exit is os._exit:
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        with self._changed:
            while not self._over and (left_s := self._until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            if self._over:
                return
            what = self._what
        try:
            print(f"powerflow: still waiting for {what} ({whereabouts()}); the process is ended now", file=self._stream)
            print("powerflow: jobs continue; the next controller takes them over", file=self._stream, flush=True)
        finally:
            self._exit(FORCED)


@contextmanager
def ending(watch: Ending | None = None) -> Iterator[Ending]:
    """Yield an `Ending` (time limit for the end of this process); cancel the limit after the ``with`` block."""
    watch = watch or Ending()
    try:
        yield watch
    finally:
        watch.done()


def whereabouts() -> str:
    """Return where in PowerFlow's code each thread is now, such as ``loop in engine.local.client.ask``."""
    names = {thread.ident: thread.name.removeprefix("powerflow-") for thread in threading.enumerate()}
    me = threading.get_ident()
    found: dict[str, None] = {}
    for ident, frame in sys._current_frames().items():
        place = _own_code(frame)
        if ident != me and place:
            found[f"{names.get(ident, 'a thread').partition(' ')[0]} in {place}"] = None
    return ", ".join(found) or "outside PowerFlow's code"


def _own_code(frame: FrameType | None) -> str:
    """Return the innermost PowerFlow function on a call stack; "" if there is none."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("powerflow."):
            return f"{module.removeprefix('powerflow.')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return ""
