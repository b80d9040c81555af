"""Read values with their units, and rows of tables, from measured files.

A unit is read or refused, never guessed. Words for a missing value are listed here; any other text is an error.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from typing import TextIO

from powerflow.errors import InputError
from powerflow.measured.recording import Quantity
from powerflow.trace.fields import clip, number

#: Most characters of a file that are read. A day of eight GPUs, one reading a second, has 60 million.
MOST_CHARS = 1 << 29
#: Most characters of a JSON document, which is in memory as a whole.
MOST_JSON_CHARS = 1 << 27

#: Words of nvidia-smi, DCGM and W&B for "no value", in lower case. nvidia-smi puts others into brackets.
_MISSING = frozenset({"", "n/a", "nan", "null", "none", "-"})

_FACTORS: dict[Quantity, dict[str, float]] = {
    Quantity.POWER: {"W": 1.0, "mW": 1e-3, "kW": 1e3},
    Quantity.LIMIT: {"W": 1.0, "mW": 1e-3, "kW": 1e3},
    Quantity.ENERGY: {"J": 1.0, "mJ": 1e-3, "kWh": 3.6e6},
    Quantity.CLOCK: {"MHz": 1.0, "Hz": 1e-6, "kHz": 1e-3, "GHz": 1e3},
    Quantity.BUSY: {"%": 0.01},
}


def factor_of(unit: str, quantity: Quantity, column: str) -> float:
    """Return the factor from a unit to that of a `Quantity`.

    Raises:
        InputError: The quantity is not measured in this unit.
    """
    known = _FACTORS[quantity]
    if unit not in known:
        told = f"the unit of {column} is {clip(unit)}" if unit else f"{column} has no unit"
        raise InputError(told, fix=f"units of {quantity} are {', '.join(known)}")
    return known[unit]


def value_of(text: str, name: str) -> float:
    """Convert text to a number; nan for a missing value.

    Raises:
        Unusable: The text is neither a number nor a known word for a missing value.
    """
    bare = text.strip()
    if bare.lower() in _MISSING or (bare.startswith("[") and bare.endswith("]")):
        return math.nan
    return number(bare, name)


class Table:
    """A CSV file, row by row, with a count of the rows that do not fit its header.

    Attributes:
        header: Names of the columns.
        line: Line number of the present row.
        rows: How many rows were read, good or bad.
        damaged: How many rows have more or fewer values than the header.
    """

    def __init__(self, stream: TextIO) -> None:
        self._rows = csv.reader(lines_of(stream), skipinitialspace=True)
        self.rows = self.damaged = 0
        self._first_damage = ""
        self.header: tuple[str, ...] = ()
        for row in self._raw():
            self.header = tuple(name.strip() for name in row)
            return

    @property
    def line(self) -> int:
        """Return the line number of the present row."""
        return self._rows.line_num

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yield each row as column → text; leave out blank rows, repeated headers, and rows that do not fit the header.

        Raises:
            InputError: At the end, if more than a tenth of the rows do not fit the header.
        """
        for row in self._raw():
            cells = [cell.strip() for cell in row]
            if tuple(cells) == self.header:
                continue  # the tool was started again
            self.rows += 1
            if len(cells) != len(self.header):
                self.skip(f"{len(cells)} values for {len(self.header)} columns")
                continue
            yield dict(zip(self.header, cells, strict=True))
        if self.damaged > 0.1 * self.rows and self.damaged > 1:
            raise InputError(
                f"{self.damaged:,} of {self.rows:,} rows cannot be read ({self._first_damage})",
                fix="write numbers with a decimal point, and as many values as the header has columns",
            )

    def skip(self, why: str) -> None:
        """Count the present row as one that cannot be read."""
        self.damaged += 1
        self._first_damage = self._first_damage or f"line {self.line}: {why}"

    def _raw(self) -> Iterator[list[str]]:
        while True:
            try:
                row = next(self._rows, None)
            except csv.Error as error:
                self.rows += 1
                self.skip(f"is not CSV: {error}")
                continue
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield row


class JsonLines:
    """A file of JSON objects, one a line, read as `Table` reads CSV.

    Attributes:
        damaged: How many lines are not a JSON object.
    """

    def __init__(self, stream: TextIO) -> None:
        self._lines = lines_of(stream)
        self.damaged = 0
        self._at = 0
        self._first_damage = ""

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yield each object as name → text ("" for null); leave out blank and damaged lines.

        Raises:
            InputError: At the end, if more than a tenth of the lines are not a JSON object.
        """
        rows = 0
        for line in self._lines:
            self._at += 1
            if not line.strip():
                continue
            rows += 1
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                yield {name: "" if value is None else str(value) for name, value in found.items()}
            else:
                self.skip("is not a JSON object")
        if self.damaged > 0.1 * rows and self.damaged > 1:
            raise InputError(f"{self.damaged:,} of {rows:,} lines cannot be read ({self._first_damage})")

    def skip(self, why: str) -> None:
        """Count the present line as one that cannot be read."""
        self.damaged += 1
        self._first_damage = self._first_damage or f"line {self._at}: {why}"


def text_of(stream: TextIO) -> str:
    """Return the whole text of a JSON file.

    Raises:
        InputError: The file is too large.
    """
    text = stream.read(MOST_JSON_CHARS + 1)
    if len(text) > MOST_JSON_CHARS:
        raise InputError(f"is larger than {MOST_JSON_CHARS >> 20} MiB", fix="export a shorter time, or fewer series")
    return text


def lines_of(stream: TextIO) -> Iterator[str]:
    """Yield the lines of a file; cut a line of more than a million characters.

    Raises:
        InputError: The file is too large.
    """
    left = MOST_CHARS
    while line := stream.readline(1 << 20):
        left -= len(line)
        if left < 0:
            raise InputError(f"is larger than {MOST_CHARS >> 20} MiB", fix="give a shorter time")
        yield line
