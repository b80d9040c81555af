"""Define a table of texts on an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of the page.

    Attributes:
        title, words: Its title, and what is said of it; ``words`` may be "".
        heads: Heads of its columns.
        texts: For each column, True if it holds text, which stands on the left.
        lines: Cells of each line; the first one names the line.
    """

    title: str
    words: str
    heads: Sequence[str]
    texts: Sequence[bool]
    lines: Sequence[Sequence[str]]
