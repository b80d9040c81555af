"""Keep track of the loops that a script runs over generators of PowerFlow, and of the time of steps."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Any

from powerflow.elastic.training.sampling import Position, SampleOrder
from powerflow.errors import InputError


class OpenLoop:
    """The generator over which a script loops at the moment.

    This object holds only a weak reference to the generator. So when the script breaks out of its loop, nothing else
    refers to the generator, and Python closes it at once.
    """

    def __init__(self) -> None:
        self._loop: weakref.ref[Generator[Any]] | None = None

    def refuse_epochs(self, start: int) -> None:
        """Raise an error if the script may not begin a loop over training epochs now.

        Raises:
            InputError: It has begun one before, or ``start``, the first epoch, is negative.
        """
        if start < 0:
            raise InputError(f"start is {start}", where="run.epochs", fix="give 0 or more")
        if self._loop is not None:
            raise InputError(
                "epochs was called twice",
                where="run.epochs",
                fix="use one loop over all epochs; in the loop, choose what to do by the number of the epoch",
            )

    def open(self, loop: Generator[Any]) -> None:
        """Remember the generator over which the script begins to loop."""
        self._loop = weakref.ref(loop)

    def close(self) -> None:
        """Close the generator if it still exists.

        After a script has left its loop, a progress bar, for example, may still refer to the generator.
        """
        if self._loop is not None and (alive := self._loop()) is not None:
            alive.close()


class TrainedLoop:
    """The last loop in which the script trained, so that it does not train twice in one training epoch."""

    def __init__(self) -> None:
        self._last: tuple[int, int, SampleOrder] | None = None  # epoch, data set, order

    def begin(self, epoch: int, dataset: object, order: SampleOrder) -> None:
        """Remember the loop that begins."""
        self._last = epoch, id(dataset), order

    def refuse_second(self, epoch: int, dataset: object, order: SampleOrder, position: Position) -> None:
        """Raise an error if a loop is the second one in its training epoch.

        A second loop over the same batches is allowed if the first loop has left steps to train.

        Raises:
            InputError: The script has trained in this epoch.
        """
        if self._last is None or self._last[0] != epoch:
            return
        again = self._last == (epoch, id(dataset), order)
        if not again or (position.epoch == epoch and position.within >= order.steps):
            raise InputError(
                f"batches was called a second time in epoch {epoch}",
                where="run.batches",
                fix="batches is for training only; to evaluate, use your own DataLoader",
            )


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
