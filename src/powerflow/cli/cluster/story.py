"""Share code of ``powerflow events`` and ``powerflow audit``: their filters, and the layout of their lines."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from powerflow.cli.sanitize import line
from powerflow.cli.when import past, stamp
from powerflow.errors import InputError

#: How many lines are shown unless another number is asked for.
SHOWN = 100
#: Most items of one answer.
PAGE = 1000

User = Annotated[str | None, typer.Option("--user", "-u", help="Show only what this user did, or what their jobs did.")]
Node = Annotated[str | None, typer.Option(help="Show only this node.")]
Since = Annotated[str | None, typer.Option(help="Show nothing earlier: 2026-11-01, '2026-11-01 17:00' or 24h (ago).")]
Until = Annotated[str | None, typer.Option(help="Show nothing later; as --since.")]
Limit = Annotated[
    int | None,
    typer.Option("--limit", "-n", help="Show this many of the newest; 0: all. Default: 100.", min=0, max=PAGE),
]


def moments(since: str | None, until: str | None) -> dict[str, float | None]:
    """Return the values of ``--since`` and ``--until`` as parameters of a request, in Unix seconds.

    Raises:
        InputError: A text is not a time, or the end is before the start.
    """
    now_s = time.time()
    since_s = None if since is None else past(since, "--since", now_s)
    until_s = None if until is None else past(until, "--until", now_s)
    if since_s is not None and until_s is not None and since_s > until_s:
        raise InputError("ends before --since begins", where="--until", fix="give a later time")
    return {"since_s": since_s, "until_s": until_s}


def story_line(time_s: float, about: str, kind: str, text: str) -> str:
    """Return one line of a list: when, what it is about, of which kind, and what happened."""
    return f"{stamp(time_s)}  {line(about):<9}  {line(kind):<13}  {line(text)}".rstrip()
