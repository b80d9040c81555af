"""Show what a command has read, once or again and again, as a table or as JSON."""

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
    """Read and show; with ``every_s``, again and again until interrupted.

    On a terminal a picture replaces the last one; elsewhere (a pipe, ``--json``) pictures follow one another. While the
    controller cannot be reached, a line under the last picture says so.

    Args:
        kind: Kind of the JSON document.
        read: Asks the controller.
        draw: Makes a picture of this many columns from what was read, after `harmless`.
        document: Makes the payload of the JSON document; None: what was read, under the key ``kind``.
        json: Print JSON.
        every_s: Seconds between pictures; None: show one picture.
    """
    out = console()

    def picture() -> RenderableType:
        return draw(harmless(read()), out.width)

    def once() -> None:
        if json:
            found = read()
            print_json(kind, {kind: found} if document is None else document(found))
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
