"""Show records as a table that fits the terminal, or as CSV, in the columns that the user names."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TextIO, TypeVar

from powerflow.cli.options import split
from powerflow.cli.sanitize import cell, line
from powerflow.errors import InputError
from powerflow.units import NOTHING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

Row = TypeVar("Row")

#: Most ranges of numbers in one cell.
_RANGES = 4


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table.

    Attributes:
        name: Head of the column, and its name in options and in CSV.
        value: Function from a record to its plain value: a text or a number; None if it is not known.
        cell: Function from a record to the text in the table; None to show the value.
        right: True to align the column right.
        spare: Order in which columns are left out on a narrow terminal, the highest number first; a column with 0 is
            always shown.
        least: Number of characters to which the text may be shortened; None if it must not be shortened.
        alike: Function from all records to their texts, instead of ``cell``: values that are compared have one unit.
    """

    name: str
    value: Callable[[Row], str | float | None]
    cell: Callable[[Row], str | float | Text | None] | None = None
    right: bool = False
    spare: int = 0
    least: int | None = None
    alike: Callable[[Sequence[Row]], Sequence[str]] | None = None

    def texts(self, rows: Sequence[Row]) -> list[Text]:
        """Return the texts in the table for all records."""
        found = map(self.cell or self.value, rows) if self.alike is None else self.alike(rows)
        return [_text(each) for each in found]


def _text(content: str | float | Text | None) -> Text:
    from rich.text import Text

    # a line break or a control character, such as in the name of another scheduler's job, must not break the table
    return content if isinstance(content, Text) else Text(NOTHING if content in (None, "") else line(str(content)))


def chosen(names: str, columns: Sequence[Column[Row]], where: str) -> list[Column[Row]]:
    """Return the columns that a list such as ``id,name`` names, in this order; upper and lower case are alike.

    Raises:
        InputError: There is no column of a name.
    """
    known = {column.name.lower(): column for column in columns}
    for name in split(names, where):
        if name.lower() not in known:
            fix = f"choose from {', '.join(column.name for column in columns)}"
            raise InputError(f"there is no field {name!r}", where=where, fix=fix)
    return [known[name.lower()] for name in split(names, where)]


def sorted_by(rows: Sequence[Row], column: Column[Row], *, descending: bool) -> list[Row]:
    """Return records in the order of a column's values; those without a value are the last."""
    known = [row for row in rows if column.value(row) is not None]
    unknown = [row for row in rows if column.value(row) is None]
    key: Callable[[Row], object] = column.value
    return [*sorted(known, key=key, reverse=descending), *unknown]  # type: ignore[arg-type]


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ranges, such as ``0-3,7``; many ranges are cut."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    parts = [f"{first}-{last}" if last > first else f"{first}" for first, last in found]
    return ",".join(parts[:_RANGES]) + (",…" if len(parts) > _RANGES else "")


def print_csv(rows: Sequence[Row], columns: Sequence[Column[Row]], *, header: bool) -> None:
    """Print records as CSV (see `write_csv`)."""
    write_csv(sys.stdout, rows, columns, header=header)


def write_csv(to: TextIO, rows: Sequence[Row], columns: Sequence[Column[Row]], *, header: bool = True) -> None:
    """Write records as CSV, one line each. Unknown values are empty; texts are harmless (`sanitize.cell`)."""
    out = csv.writer(to, lineterminator="\n")
    if header:
        out.writerow([column.name for column in columns])
    for row in rows:
        values = [column.value(row) for column in columns]
        out.writerow(["" if value is None else cell(value) if isinstance(value, str) else value for value in values])


def fitted_table(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    width: int,
    *,
    header: bool = True,
    style: Callable[[Row], str] = lambda row: "",
    heads: Mapping[str, str] | None = None,
) -> RenderableType:
    """Draw one line per record.

    Args:
        rows: The records.
        columns: The columns. Those with a number ``spare`` are left out if the terminal is narrow.
        width: Width of the terminal in characters.
        header: False for a table without a head.
        style: Function from a record to the style of its line.
        heads: Heads that differ from the columns' names.
    """
    from rich import box
    from rich.table import Table

    names = {column.name: (heads or {}).get(column.name, column.name) for column in columns}
    cells = {column: column.texts(rows) for column in columns}
    shown = fitted_widths(cells, names if header else {}, width)
    table = Table(
        box=box.SIMPLE_HEAD if header else None,
        pad_edge=False,
        padding=(0, 1, 0, 0) if header else (0, 2, 0, 0),
        show_edge=False,
        show_header=header,
    )
    for column, cut in shown.items():
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(names[column.name], justify=justify, no_wrap=True, overflow="ellipsis", width=cut)
    for i, row in enumerate(rows):
        table.add_row(*(cells[column][i] for column in shown), style=style(row))
    return table


def fitted_widths(
    cells: Mapping[Column[Row], Sequence[Text]], names: Mapping[str, str], width: int
) -> Mapping[Column[Row], int]:
    """Return the columns that fit side by side, with two blanks between them, and the width of each.

    Args:
        cells: The texts of each column.
        names: Heads by the columns' names; a column without one has no head.
        width: Width of the terminal in characters.
    """
    from rich.cells import cell_len

    widths = {
        column: max([cell_len(names.get(column.name, "")), *(text.cell_len for text in texts)])
        for column, texts in cells.items()
    }
    cut = {column: min(full, column.least or full) for column, full in widths.items()}
    while sum(cut.values()) + 2 * len(cut) - 2 > width:
        least_needed = max(cut, key=lambda column: column.spare)
        if least_needed.spare == 0:
            break
        del cut[least_needed]
    left = max(width - sum(cut.values()) - 2 * len(cut) + 2, 0)
    for column, least in cut.items():
        cut[column] = min(widths[column], least + left)
        left -= cut[column] - least
    return cut
