"""Keep the clocks that were set and restored on one machine until the controller has them in its audit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from powerflow.agent.clock_keeper import ClockChange
from powerflow.osutil.files import read_json, replace_json

#: Most entries that are kept for a controller that is away; after that the oldest are dropped.
MOST = 2000


class ClockAudit:
    """File with clock changes that no controller has stored yet.

    Args:
        path: The file; it is created, or continued.
        clock: Present time in Unix seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        # numbers begin with the time, so that they also rise if the file is lost
        kept = read_json(path) or {"next": int(clock() * 1e3), "entries": []}
        self._next: int = int(kept["next"])
        self._entries: list[list[Any]] = list(kept["entries"])  # number, Unix seconds, UUID, action, fields
        self._unsaved: list[ClockChange] = []

    def add(self, changes: Sequence[ClockChange]) -> None:
        """Keep clock changes.

        Raises:
            OSError: The file cannot be written. The next call writes these changes, too.
        """
        self._unsaved += changes
        if not self._unsaved:
            return
        now_s = self._clock()
        new = [[self._next + i, now_s, c.uuid, c.action, dict(c.fields)] for i, c in enumerate(self._unsaved)]
        self._write(self._next + len(new), [*self._entries, *new][-MOST:])
        self._unsaved = []

    def acknowledge(self, number: int) -> None:
        """Drop all entries up to a number.

        Raises:
            OSError: The file cannot be written.
        """
        if self._entries and self._entries[0][0] <= number:
            self._write(self._next, [entry for entry in self._entries if entry[0] > number])

    def pending(self) -> list[list[Any]]:
        """Return the entries that are kept, each as ``[number, age in seconds, uuid, action, fields]``."""
        now_s, entries = self._clock(), self._entries
        return [[number, max(0.0, now_s - at_s), *rest] for number, at_s, *rest in entries]

    def _write(self, following: int, entries: list[list[Any]]) -> None:
        replace_json(self._path, {"next": following, "entries": entries})
        self._next, self._entries = following, entries
