"""Keep track of the loops that a script runs over generators of PowerFlow."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Any


class OpenLoop:
    """A generator that a script loops over.

    The reference is weak: when the script breaks out of its loop, nothing else holds the generator, and Python closes
    it at once.
    """

    def __init__(self) -> None:
        self._loop: weakref.ref[Generator[Any]] | None = None

    @property
    def begun(self) -> bool:
        """Whether a loop was ever opened."""
        return self._loop is not None

    def open(self, loop: Generator[Any]) -> None:
        """Remember the generator of a new loop."""
        self._loop = weakref.ref(loop)

    def close(self) -> None:
        """Close the generator if it still exists: a script that left its loop may keep it, say in a progress bar."""
        if self._loop is not None and (alive := self._loop()) is not None:
            alive.close()


class StepTimer:
    """Counts the steps of a generation, and the time that they take."""

    def __init__(self) -> None:
        self._generation, self._steps, self._seconds = 0, 0, 0.0

    def add(self, generation: int, seconds: float) -> dict[str, float]:
        """Add a step of a generation, and return what the rank's report says of all its steps."""
        if self._generation != generation:
            self._generation, self._steps, self._seconds = generation, 0, 0.0
        self._steps += 1
        self._seconds += seconds
        return {"timed_steps": self._steps, "timed_s": self._seconds}
