"""Make driver calls that may never return, each GPU's in a thread of its own, and wait for them for a bounded time.

A driver that is stuck holds the thread that called it, for seconds or for ever, and nothing can take it back. So one
thread per GPU calls the driver; callers wait for its answer until a deadline. While a call is stuck, the next ones fail
at once, and no other GPU is concerned. The stuck call is not undone: it may still take effect when the driver goes on,
which is why clocks are read back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from powerflow.device.protocol import DeviceError

Answer = TypeVar("Answer")

#: How long a caller waits for the driver to read a GPU, to change one, to open one, and to start itself (without
#: persistence mode it then wakes every card).
READ_S, CHANGE_S, OPEN_S, INIT_S = 2.0, 5.0, 10.0, 60.0


class NotAnswering(DeviceError):
    """The driver has not returned from a call."""


class Call:
    """Call that was given to a thread: the function, and its result or error once it has returned."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self.began_s = time.monotonic()
        self.ended = threading.Event()
        self.answer: Any = None
        self.error: BaseException | None = None
        self._do = do

    def run(self) -> None:
        """Make the call; for the thread that may get stuck."""
        try:
            self.answer = self._do()
        except BaseException as error:  # raised again in the caller
            self.error = error
        self.ended.set()


class OwnThread:
    """Thread that makes calls one at a time; it is started with the first of them.

    Args:
        who: Name of the device in error messages.
    """

    def __init__(self, who: str) -> None:
        self.who = who
        self._last: Call | None = None
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def begin(self, do: Callable[[], Any], within_s: float) -> Call:
        """Start a call without waiting for its answer; wait at most so long for an earlier call to end.

        Raises:
            NotAnswering: An earlier call has not returned.
        """
        with self._lock:
            before = self._last
            if before is not None and not before.ended.wait(max(0.0, before.began_s + within_s - time.monotonic())):
                raise self._late()
            call = self._last = Call(do)
            if self._thread is None:
                # a daemon: a thread that is stuck in the driver must not keep the process from ending
                self._thread = threading.Thread(target=self._work, name=f"powerflow {self.who}", daemon=True)
                self._thread.start()
            self._calls.put(call)
        return call

    def end(self, call: Call, within_s: float) -> Any:
        """Wait for the answer to a call, at most so long after it began.

        Raises:
            NotAnswering: It has not returned by then.
            Exception: What the call raised.
        """
        if not call.ended.wait(max(0.0, call.began_s + within_s - time.monotonic())):
            raise self._late()
        if call.error is not None:
            raise call.error
        return call.answer

    def call(self, do: Callable[[], Answer], within_s: float) -> Answer:
        """Make a call, and wait for its answer.

        Raises:
            NotAnswering: It, or one before it, has not returned within so many seconds.
            Exception: What the call raised.
        """
        answer: Answer = self.end(self.begin(do, within_s), within_s)
        return answer

    def _late(self) -> NotAnswering:
        return NotAnswering(f"{self.who}: its driver does not answer")

    def _work(self) -> None:
        while True:
            self._calls.get().run()


_threads: dict[str, OwnThread] = {}
_threads_lock = threading.Lock()


def thread_of(key: str, who: str) -> OwnThread:
    """Return the thread for calls about one device, the same one for the same key, so that a stuck call stays known."""
    with _threads_lock:
        return _threads.setdefault(key, OwnThread(who))
