"""Fill a table of Textual with records, in those columns that fit the width of the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from powerflow.cli.columns import Column, fitted_widths, sorted_by

Row = TypeVar("Row")

UP, DOWN = "↑", "↓"


class RowTable(DataTable[Text]):
    """Table of which a whole line is selected, and whose footer says that Enter opens it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "open")]

    def __init__(self, id: str) -> None:
        super().__init__(id=id, cursor_type="row")


def fill(
    table: DataTable[Text],
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    key: Callable[[Row], str],
    width: int,
    order: tuple[str, bool] | None,
) -> None:
    """Show records in a table, one line each. The selected line stays selected, and in its place of the screen.

    Args:
        table: The table.
        rows: The records.
        columns: The columns. Those with a number ``spare`` are left out if the table is narrow.
        key: Returns what a record is known by.
        width: Width of the table in characters.
        order: Name of the column to sort by, and True for falling values; None to leave the order.
    """
    by = next((column for column in columns if order is not None and column.name == order[0]), None)
    falling = order is not None and order[1]
    shown = list(rows) if by is None else sorted_by(rows, by, descending=falling)
    heads = {column.name: column.name + (_arrow(falling) if column is by else "") for column in columns}
    cells = {column: column.texts(shown) for column in columns}
    widths = fitted_widths(cells, heads, width - 2)
    was, top = selected(table), table.scroll_y
    with table.app.batch_update():
        table.clear(columns=True)
        for column, cut in widths.items():
            head = Text(heads[column.name], justify="right" if column.right else "left")
            table.add_column(head, width=cut, key=column.name)
        for i, row in enumerate(shown):
            table.add_row(*(_cell(cells[column][i], column.right, cut) for column, cut in widths.items()), key=key(row))
        place = next((i for i, row in enumerate(shown) if key(row) == was), 0)
        table.move_cursor(row=place, animate=False, scroll=False)
        table.scroll_to(y=top, animate=False, force=True)


def selected(table: DataTable[Any]) -> str | None:
    """Return the key of the selected line; None in an empty table."""
    if not table.row_count:
        return None
    return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value


def _arrow(falling: bool) -> str:
    return DOWN if falling else UP


def _cell(text: Text, right: bool, width: int) -> Text:
    shown = text.copy()
    shown.truncate(width, overflow="ellipsis")
    shown.justify = "right" if right else "left"
    shown.no_wrap = True
    return shown
