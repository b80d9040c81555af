"""Record the power drawn under each power cap in a CSV file of its own, for the judgement of compliance.

Each line holds from its time to the next line.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.scheduler.caps.compliance import HEADER, line

#: Power that changed by a smaller share is not recorded again,
NOTED = 0.001
#: before this many seconds have passed: so a record tells until when power was read.
NOTED_S = 60.0


class CapRecords:
    """The records of all caps, by their numbers. `note` is for one thread, the rest for any."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._noted: dict[int, tuple[float, float, float]] = {}  # as written last

    def note(self, number: int, now_s: float, watts: float, allowed_w: float) -> None:
        """Record the power that is drawn and allowed (inf: any), if it has changed.

        Raises:
            OSError: The file cannot be written.
        """
        at_s, before_w, allowed_before_w = self._noted.get(number, (-math.inf, math.nan, math.nan))
        same = abs(watts - before_w) <= NOTED * before_w and allowed_w == allowed_before_w
        if same and now_s - at_s < NOTED_S:
            return
        path = self._path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        start = "" if path.exists() else HEADER
        with path.open("a", encoding="ascii") as file:
            file.write(start + line(now_s, watts, allowed_w))
        self._noted[number] = now_s, watts, allowed_w

    def text(self, number: int) -> str:
        """Return a cap's record; only the header if nothing was recorded."""
        path = self._path(number)
        return path.read_text("ascii") if path.exists() else HEADER

    def course(self, number: int, now_s: float) -> tuple[FloatArray, FloatArray]:
        """Return times (s) and the watts from each on, up to now if the last reading still holds; ``[T]`` each."""
        # a controller that was killed may have left half a line
        rows = [row for row in csv.reader(self.text(number).splitlines()[1:]) if len(row) == 3]
        if rows and float(rows[-1][0]) < now_s <= float(rows[-1][0]) + 2 * NOTED_S:
            rows.append([str(now_s), *rows[-1][1:]])
        return np.array([float(row[0]) for row in rows]), np.array([float(row[1]) for row in rows])

    def forget(self, number: int) -> None:
        """Delete a cap's record."""
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"cap-{number}.csv"
