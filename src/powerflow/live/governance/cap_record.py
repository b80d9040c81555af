"""Record the watts that are drawn under each power cap, to judge later whether the cap was kept.

There is one CSV file for each cap. The values of a line hold from the time of this line to the time of the next line.
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
    """Keep the power records of all caps, by the number of the cap.

    One thread may call `note`; any thread may call the rest.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._noted: dict[int, tuple[float, float, float]] = {}  # as written last

    def note(self, number: int, now_s: float, watts: float, allowed_w: float) -> None:
        """Record the watts that are drawn and the watts that are allowed (inf: no limit) under a cap.

        Nothing is written if these values have hardly changed and the last line is recent.

        Raises:
            OSError: The file of this cap cannot be written.
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
        """Return the power record of a cap as CSV; only the header line if nothing was recorded."""
        path = self._path(number)
        return path.read_text("ascii") if path.exists() else HEADER

    def course(self, number: int, now_s: float) -> tuple[FloatArray, FloatArray]:
        """Return the recorded times (s) and the watts from each time on, as two arrays of shape ``[T]``.

        If the last record is recent, ``now_s`` is added as the last time, with the same watts.
        """
        # a controller that was killed may have left half a line
        rows = [row for row in csv.reader(self.text(number).splitlines()[1:]) if len(row) == 3]
        if rows and float(rows[-1][0]) < now_s <= float(rows[-1][0]) + 2 * NOTED_S:
            rows.append([str(now_s), *rows[-1][1:]])
        return np.array([float(row[0]) for row in rows]), np.array([float(row[1]) for row in rows])

    def forget(self, number: int) -> None:
        """Delete the power record of a cap."""
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"cap-{number}.csv"
