"""Define a key figure: a large number at the head of a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A large number on a page, with a text that says what it means."""

    value: str
    meaning: str
