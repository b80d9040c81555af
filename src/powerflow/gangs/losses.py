"""Count how often ranks were lost since a step was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
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

    def another(self, step: int) -> Losses:
        """Return the losses with one more, at this step."""
        return replace(self, count=self.count + 1) if step <= self.step else Losses(1, step)
