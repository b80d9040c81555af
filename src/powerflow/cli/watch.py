"""Showing what a reading command has read: once or again and again, as a table or as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from powerflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

Read = TypeVar("Read")


def show(
    kind: str,
    read: Callable[[], Read],
    draw: Callable[[Read, int], RenderableType],
    document: Callable[[Read], Mapping[str, Any] | object],
    *,
    json: bool,
    every_s: float | None,
) -> None:
    """Read and show; with ``every_s`` until interrupted.

    On a terminal the picture is drawn over; elsewhere (a pipe, ``--json``) one follows the other. A controller that
    cannot be reached for a while is said so under the last picture.

    Args:
        kind: What the JSON document calls itself.
        read: Asks the controller.
        draw: Makes a picture for so many columns, of what was read, made `harmless`.
        document: Makes the payload of the JSON document.
        json: Print JSON.
        every_s: Seconds from picture to picture; None: one picture.
    """
    from powerflow.cli.output import console, print_json
    from powerflow.cli.sanitize import harmless

    out = console()

    def picture() -> RenderableType:
        return draw(harmless(read()), out.width)

    def once() -> None:
        if json:
            print_json(kind, document(read()))
        else:
            out.print(picture())
        sys.stdout.flush()

    if every_s is None:
        once()
    elif json or not out.is_terminal:
        while True:
            once()
            time.sleep(every_s)
    else:
        _live(picture, every_s)


def _live(picture: Callable[[], RenderableType], every_s: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from powerflow.cli.output import console

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
