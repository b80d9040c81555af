"""A rank's report, kept up to date by a thread, so that training only has to note what it does.

A thread and not the training loop, because a rank that waits for its peers is deep inside an all-reduce: only thus
does its report say so. A report is also a sign of life: it is written anew at least every `SIGN_OF_LIFE_S`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from powerflow.elastic.mailbox import Mailbox, Phase, RankReport

#: Shortest time between two reports, save when something happened that others wait for.
EVERY_S = 0.5
#: Longest time between two.
SIGN_OF_LIFE_S = 2.0


class Reporter:
    """Says where one rank stands. Without a mailbox it says nothing."""

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
        self._stop = threading.Event()
        self.watch: Callable[[], None] = lambda: None  # called about twice a second, from the thread
        if mailbox is not None:
            self.tell()
            threading.Thread(target=self._run, name="powerflow-reporter", daemon=True).start()

    @property
    def phase(self) -> Phase:
        """What this rank does."""
        phase: Phase = self._facts["phase"]
        return phase

    def note(self, **facts: Any) -> None:
        """Something that the next report shall say."""
        self._facts.update(facts)

    def enter(self, phase: Phase) -> None:
        """A phase that the next report shall say."""
        self._facts["phase"] = phase
        self._facts["phase_s"] = time.time()

    def does(self, phase: Phase) -> None:
        """Note what the script does in its loop or between two; a rank that waits, or is done, still does that."""
        if self._facts["phase"] in (Phase.COMPUTING, Phase.OUTSIDE, Phase.EVALUATING):
            self.enter(phase)

    def tell(self, phase: Phase | None = None, **facts: Any) -> None:
        """Report now, because others wait for it."""
        if phase is not None:
            self.enter(phase)
        self.note(**facts)
        self._write()

    def close(self) -> None:
        """Say the last that was noted, and no more."""
        self._stop.set()
        self._write()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.watch()
            if self._facts != self._written or time.monotonic() - self._written_s > SIGN_OF_LIFE_S:
                self._write()

    def _write(self) -> None:
        if self._mailbox is None:
            return
        # A disk that is full is no reason to stop training; the next report may find room.
        with self._lock, contextlib.suppress(OSError):
            facts = dict(self._facts)
            self._beat += 1
            self._mailbox.report(RankReport(**facts, beat=self._beat))
            self._written, self._written_s = facts, time.monotonic()
