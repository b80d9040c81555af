"""Count how often ranks were lost since a step was trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Losses:
    """Losses of ranks since a step was trained.

    Attributes:
        count: How many times.
        step: Steps trained at the last one.
        mended: Generation that closes the ranks after the last one; the gang grows again once it is whole.
    """

    count: int = 0
    step: int = -1
    mended: int = 0
