"""Make ranks leave: tell them in the mailbox, then send SIGTERM, then SIGKILL, with a time limit for each."""

from __future__ import annotations

import signal
from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum

from powerflow.engine.protocol import EngineError, RankName
from powerflow.gangs.context import GangContext


class StopSignal(IntEnum):
    """Ways to ask a rank to leave, from weak to strong.

    The weakest way is a message in the mailbox, without a signal.
    """

    TOLD = 0
    TERMINATED = 1
    KILLED = 2


@dataclass(slots=True)
class StopAttempt:
    """The last attempt to make a rank leave: the signal, its time, and the time of the next stronger signal.

    ``sent`` is True if this signal was sent.
    """

    signal: StopSignal
    since_s: float
    due_s: float
    sent: bool = False


class StopAttempts:
    """Ask ranks of one gang to leave, and remember which ranks were asked. Only `carry_out` sends signals."""

    def __init__(self, context: GangContext) -> None:
        self._context = context
        self._attempts: dict[str, StopAttempt] = {}

    def ask(self, name: str, signal: StopSignal, within_s: float) -> None:
        """Ask a rank to leave, with at least the strength of ``signal``.

        If the rank has not left after ``within_s`` seconds, the next stronger signal is due.
        """
        attempt = self._attempts.get(name)
        if attempt is None or attempt.signal < signal:
            now = self._context.clock()
            self._attempts[name] = StopAttempt(signal, now, now + within_s)

    def asked(self, name: str) -> bool:
        """Return True if a rank was asked to leave."""
        return name in self._attempts

    def postpone(self, name: str, within_s: float, most_s: float) -> None:
        """Give a rank more time to leave, if it was told to leave but got no signal yet.

        Its time of ``within_s`` seconds starts now, but at the latest ``most_s`` seconds after it was told.
        """
        attempt = self._attempts.get(name)
        if attempt is not None and attempt.signal is StopSignal.TOLD:
            attempt.due_s = min(self._context.clock(), attempt.since_s + most_s) + within_s

    def carry_out(self, running: Container[str]) -> bool:
        """Send the signals that are due; return True if a rank that was asked to leave still runs.

        Args:
            running: Ranks that run on nodes that answer. The time of another rank begins when its node answers.

        Raises:
            EngineError: A node does not answer. The signals to other nodes were sent; the next call sends the rest.
        """
        failed: EngineError | None = None
        now = self._context.clock()
        self._attempts = {name: attempt for name, attempt in self._attempts.items() if name in running}
        for name, attempt in self._attempts.items():
            if now >= attempt.due_s:
                attempt.signal = StopSignal(min(attempt.signal + 1, StopSignal.KILLED))
                attempt.since_s, attempt.due_s, attempt.sent = now, now + self._context.limits.kill_s, False
            if not attempt.sent and (number := (None, signal.SIGTERM, signal.SIGKILL)[attempt.signal]):
                try:
                    self._context.engine.signal(RankName.parse(name), number)
                except EngineError as error:
                    failed = error
                    continue
            attempt.sent = True
        if failed is not None:
            raise failed
        return bool(self._attempts)
