"""Report the state of a rank from a separate thread, so that the training loop only sets values.

The thread is needed because a rank that waits inside an all-reduce could not report that it waits. Reports also show
that the rank lives: at least one is written every `SIGN_OF_LIFE_S` seconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from powerflow.elastic.mailbox import PROTOCOL, Mailbox, Phase, RankReport

#: Shortest time between two reports, unless other ranks wait for one.
EVERY_S = 0.5
#: Longest time between two reports.
SIGN_OF_LIFE_S = 2.0


class Reporter:
    """Reports the state of one rank to the controller and to other ranks. Without a mailbox it does nothing."""

    def __init__(self, mailbox: Mailbox | None, name: str) -> None:
        self._mailbox = mailbox
        self._facts: dict[str, Any] = {
            "name": name,
            "pid": os.getpid(),
            "generation": 0,
            "phase": Phase.STARTING,
            "phase_s": time.time(),
        }
        self._lock = threading.Lock()
        self._written: dict[str, Any] = {}
        self._written_s = 0.0
        self._beat = 0
        self._stopped = False
        self._wake = threading.Event()
        self.watches: list[Callable[[], None]] = []  # the thread calls them about twice a second
        if mailbox is not None:
            self.tell()
            threading.Thread(target=self._run, name="powerflow-reporter", daemon=True).start()

    @property
    def phase(self) -> Phase:
        """Current phase of this rank: what it does now."""
        phase: Phase = self._facts["phase"]
        return phase

    def note(self, **facts: Any) -> None:
        """Set values (fields of `RankReport`) for the next report."""
        self._facts.update(facts)

    def enter(self, phase: Phase) -> None:
        """Set the phase (what the rank does) for the next report."""
        self._facts["phase"] = phase
        self._facts["phase_s"] = time.time()

    def does(self, phase: Phase) -> None:
        """Set a phase (what the script does) for the next report.

        If the rank waits for others, saves a checkpoint or has finished training, do nothing.
        """
        if self._facts["phase"] in (Phase.COMPUTING, Phase.OUTSIDE, Phase.EVALUATING):
            self.enter(phase)

    def tell(self, phase: Phase | None = None, **facts: Any) -> None:
        """Write a report now, because other ranks wait for it."""
        if phase is not None:
            self.enter(phase)
        self.note(**facts)
        self._write()

    def tell_soon(self, phase: Phase, **facts: Any) -> None:
        """Let the thread write a report now. Other ranks wait for it, but this rank shall not wait for the disk."""
        self.enter(phase)
        self.note(**facts)
        self._wake.set()

    def close(self) -> None:
        """Write the last report, and stop the thread that reports."""
        self._stopped = True
        self._wake.set()
        self._write()

    def _run(self) -> None:
        while True:
            asked = self._wake.wait(EVERY_S)
            if self._stopped:
                return
            self._wake.clear()
            for watch in () if asked else self.watches:
                watch()
            if self._facts != self._written or time.monotonic() - self._written_s > SIGN_OF_LIFE_S:
                self._write()

    def _write(self) -> None:
        if self._mailbox is None:
            return
        # a full disk is no reason to stop training; a later report may succeed
        with self._lock, contextlib.suppress(OSError):
            facts = dict(self._facts)
            self._beat += 1
            self._mailbox.report(RankReport(**facts, beat=self._beat, protocol=PROTOCOL))
            self._written, self._written_s = facts, time.monotonic()
