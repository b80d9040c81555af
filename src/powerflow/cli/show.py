"""Show a command's answer as a table or as JSON, once or repeatedly."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from powerflow.cli.output import console, print_json
from powerflow.cli.sanitize import harmless
from powerflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

Read = TypeVar("Read")


def show(
    kind: str,
    read: Callable[[], Read],
    draw: Callable[[Read, int], RenderableType],
    document: Callable[[Read], Mapping[str, Any] | object] | None = None,
    *,
    json: bool,
    every_s: float | None,
) -> None:
    """Read an answer from the controller and show it. With ``every_s``, repeat this until Ctrl-C.

    On a terminal, each new table replaces the previous one. In a pipe and with ``--json``, it is printed below the
    previous one. While the controller cannot be reached, a line under the last table says so.

    Args:
        kind: Kind of the JSON document.
        read: Function that asks the controller.
        draw: Function from the answer and the terminal's width to a table.
        document: Function from the answer to the content of the JSON document. With None, the content is the answer
            under the key ``kind``.
        json: True to print JSON.
        every_s: Seconds between two answers; None shows only one.
    """
    if json:

        def print_document() -> None:
            found = read()
            print_json(kind, {kind: found} if document is None else document(found))

        _repeat(print_document, every_s)
        return
    out = console()

    def picture() -> RenderableType:
        return draw(harmless(read()), out.width)

    if every_s is not None and out.is_terminal:
        _live(picture, every_s)
    else:
        _repeat(lambda: out.print(picture()), every_s)


def _repeat(print_answer: Callable[[], None], every_s: float | None) -> None:
    """Print an answer, once or repeatedly."""
    print_answer()
    sys.stdout.flush()
    while every_s is not None:
        time.sleep(every_s)
        print_answer()
        sys.stdout.flush()


def _live(picture: Callable[[], RenderableType], every_s: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    last = picture()
    with Live(last, console=console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        live.refresh()
        while True:
            time.sleep(every_s)
            try:
                last = picture()
                live.update(last, refresh=True)
            except InputError as error:
                if error.exit_code != 5:
                    raise
                live.update(Group(Text(f"{error}; trying again", style="bold red"), last), refresh=True)
