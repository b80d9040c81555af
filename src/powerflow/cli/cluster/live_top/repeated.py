"""Ask the controller again and again in a thread, and keep the latest answer and what is wrong since when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from powerflow.cli.main import UNREACHABLE
from powerflow.errors import InputError

Answer = TypeVar("Answer")


class RepeatedQuestion(Generic[Answer]):
    """One question to the controller, asked again and again: never two at once, and none while nobody looks.

    A thread that waits for an answer cannot be ended, so it does not hold up the end of the process.

    Args:
        ask: Asks the controller.
        every_s: Seconds between an answer and the next question.

    Attributes:
        answer: The latest answer; None before the first.
        answers: Number of answers so far.
        answered_s: When the latest answer came, in Unix seconds.
        trouble: Why there is no newer answer; "" if nothing is wrong.
        failed: Why there will be no further answer: the controller answers with an error. None if nothing is wrong.
    """

    def __init__(self, ask: Callable[[], Answer], every_s: float) -> None:
        self._ask, self._every_s = ask, every_s
        self._ended, self._now = threading.Event(), threading.Event()
        self.answer: Answer | None = None
        self.answers = 0
        self.answered_s = time.time()
        self.trouble = ""
        self.failed: InputError | None = None

    def first(self) -> None:
        """Ask once, and wait for the answer.

        Raises:
            InputError: The controller does not answer, or with an error.
        """
        self._take(self._ask())

    def start(self) -> None:
        """Ask from now on until `end`."""
        threading.Thread(target=self._run, name="powerflow-top", daemon=True).start()

    def again(self) -> None:
        """Ask at once."""
        self._now.set()

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._now.set()

    def note(self, words: str) -> None:
        """Record that the connection was lost; an answer clears it."""
        self.trouble = words

    def _take(self, answer: Answer) -> None:
        self.answer, self.answered_s, self.trouble = answer, time.time(), ""
        self.answers += 1

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                if self.answers:
                    self._now.wait(self._every_s)
                    self._now.clear()
                if not self._ended.is_set():
                    self._take(self._ask())
            except InputError as error:
                if error.exit_code != UNREACHABLE:
                    self.failed = error
                    return
                self.trouble = str(error)
                self._ended.wait(self._every_s)
