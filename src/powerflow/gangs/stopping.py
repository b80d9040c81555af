"""Make ranks leave: tell them, then SIGTERM, then SIGKILL, each when the one before had its time."""

from __future__ import annotations

import signal
from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum

from powerflow.engine.protocol import RankName
from powerflow.gangs.context import GangContext


class StopSignal(IntEnum):
    """How hard a rank is asked to leave. Who is only told reads it in the mailbox, and gets no signal."""

    TOLD = 0
    TERMINATED = 1
    KILLED = 2


@dataclass(slots=True)
class StopAttempt:
    """How a rank was asked to leave, and since when; it is asked harder when it is due. ``sent``: the signal was."""

    signal: StopSignal
    since_s: float
    due_s: float
    sent: bool = False


class StopAttempts:
    """The ranks of one gang that were asked to leave. Signals are sent by `carry_out` alone."""

    def __init__(self, context: GangContext) -> None:
        self._context = context
        self._attempts: dict[str, StopAttempt] = {}

    def ask(self, name: str, signal: StopSignal, within_s: float) -> None:
        """Ask a rank to leave, at least so hard; harder if it has not left within that time."""
        attempt = self._attempts.get(name)
        if attempt is None or attempt.signal < signal:
            now = self._context.clock()
            self._attempts[name] = StopAttempt(signal, now, now + within_s)

    def asked(self, name: str) -> bool:
        """Return whether a rank was asked to leave."""
        return name in self._attempts

    def postpone(self, name: str, within_s: float, most_s: float) -> None:
        """Let the time of a rank that was only told begin now; at the latest ``most_s`` after it was told."""
        attempt = self._attempts.get(name)
        if attempt is not None and attempt.signal is StopSignal.TOLD:
            attempt.due_s = min(self._context.clock(), attempt.since_s + most_s) + within_s

    def carry_out(self, running: Container[str]) -> bool:
        """Send the signals that are due; return whether some rank has still to leave.

        Raises:
            EngineError: If the engine does not answer. What was not sent is sent by the next call.
        """
        now = self._context.clock()
        self._attempts = {name: attempt for name, attempt in self._attempts.items() if name in running}
        for name, attempt in self._attempts.items():
            if now >= attempt.due_s:
                attempt.signal = StopSignal(min(attempt.signal + 1, StopSignal.KILLED))
                attempt.since_s, attempt.due_s, attempt.sent = now, now + self._context.limits.kill_s, False
            if not attempt.sent and (number := (None, signal.SIGTERM, signal.SIGKILL)[attempt.signal]):
                self._context.engine.signal(RankName.parse(name), number)
            attempt.sent = True
        return bool(self._attempts)
