"""Call a GPU driver with a deadline, although a call may never return. Each GPU has its own thread for its calls.

A driver that is stuck blocks the thread that called it, for seconds or for ever, and the call cannot be cancelled. So
one thread per GPU calls the driver, and callers wait for the answer of that thread until a deadline. While a call is
stuck, further calls for the same GPU fail at once; calls for other GPUs are not affected. A stuck call may still take
effect when the driver continues. So clocks are read after they were set.
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
    """Error: the driver has not returned from a call in time."""


class Call:
    """One driver call: the function to call, and its result or its exception once the function has returned."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self.began_s = time.monotonic()
        self.ended = threading.Event()
        self.answer: Any = None
        self.error: BaseException | None = None
        self._do = do

    def run(self) -> None:
        """Call the function, and store its result or exception.

        The thread that runs this method may get stuck in the driver.
        """
        try:
            self.answer = self._do()
        except BaseException as error:  # raised again in the caller
            self.error = error
        self.ended.set()


class OwnThread:
    """Thread that makes driver calls one after another. It is started at the first call.

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
        """Start a call without waiting for its answer.

        If an earlier call has not returned, first wait until ``within_s`` seconds after that call began.

        Raises:
            NotAnswering: The earlier call has still not returned.
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
        """Return the answer to a call; wait for it until ``within_s`` seconds after the call began.

        Raises:
            NotAnswering: The call has not returned by then.
            Exception: The exception that the called function raised.
        """
        if not call.ended.wait(max(0.0, call.began_s + within_s - time.monotonic())):
            raise self._late()
        if call.error is not None:
            raise call.error
        return call.answer

    def call(self, do: Callable[[], Answer], within_s: float) -> Answer:
        """Make a call, and return its answer.

        Raises:
            NotAnswering: This call or an earlier call has not returned within ``within_s`` seconds.
            Exception: The exception that the called function raised.
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
    """Return the thread for the calls of one device. The same ``key`` always gives the same thread.

    So a caller that opens the device again still sees that an earlier call is stuck.
    """
    with _threads_lock:
        return _threads.setdefault(key, OwnThread(who))
