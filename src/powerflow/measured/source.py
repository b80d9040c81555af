"""Define a measured file after reading, and what was made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from powerflow.cost.observation import ObservationRow
from powerflow.measured.recording import Recording, Totals


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """A file that was read: a recording, totals, or rows of the table of observations."""

    path: Path
    title: str
    content: Recording | Totals | Sequence[ObservationRow]

    @property
    def name(self) -> str:
        """Return the file as the user named it."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class MeasuredSource:
    """What was made of one run, or of one file of points.

    Attributes:
        name: Its files.
        title: What they are.
        points: How many points they gave.
        used: How many of its parts are in these points.
        unit: What these parts are: intervals, windows or rows.
        left_out: How many are not, by reason.
        notes: What the user should know.
        is_table: True if it is a table of observations.
    """

    name: str
    title: str
    points: int
    used: int
    unit: str
    left_out: Mapping[str, int]
    notes: tuple[str, ...] = ()
    is_table: bool = False

    def said(self) -> str:
        """Return one line for the user."""
        parts = self.unit if self.used != 1 else self.unit.removesuffix("s")
        made = f"{self.points:,} point{'s' * (self.points != 1)} from {self.used:,} {parts}"
        out = f"; left out: {counted(self.left_out)}" if self.left_out else ""
        return f"{self.name} ({self.title}): {made}{out}"


def counted(left_out: Mapping[str, int]) -> str:
    """Return what was left out, for the user: ``12 in warm-up, 3 idle``; "" for nothing."""
    return ", ".join(f"{count:,} {why}" for why, count in left_out.items())
