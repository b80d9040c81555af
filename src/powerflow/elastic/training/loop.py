"""Keep track of the loops that a script runs over generators of PowerFlow, and of the time of steps."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Any


class OpenLoop:
    """The generator over which a script loops at the moment.

    This object holds only a weak reference to the generator. So when the script breaks out of its loop, nothing else
    refers to the generator, and Python closes it at once.
    """

    def __init__(self) -> None:
        self._loop: weakref.ref[Generator[Any]] | None = None

    @property
    def begun(self) -> bool:
        """Whether the script has ever started a loop that this object was given."""
        return self._loop is not None

    def open(self, loop: Generator[Any]) -> None:
        """Remember the generator over which the script begins to loop."""
        self._loop = weakref.ref(loop)

    def close(self) -> None:
        """Close the generator if it still exists.

        After a script has left its loop, a progress bar, for example, may still refer to the generator.
        """
        if self._loop is not None and (alive := self._loop()) is not None:
            alive.close()


class StepTimer:
    """Counts the steps of a generation (ranks that train together), and the time that the steps take."""

    def __init__(self) -> None:
        self._generation, self._steps, self._seconds = 0, 0, 0.0

    def add(self, generation: int, seconds: float) -> dict[str, float]:
        """Add a step of a generation; return the number and the seconds of all its steps, for the rank's report."""
        if self._generation != generation:
            self._generation, self._steps, self._seconds = generation, 0, 0.0
        self._steps += 1
        self._seconds += seconds
        return {"timed_steps": self._steps, "timed_s": self._seconds}
