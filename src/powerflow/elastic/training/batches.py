"""The loader that ``run.batches`` returns: used as a DataLoader is, it yields this rank's part of an epoch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator
from typing import Any

from powerflow.elastic.training.loader import Feed
from powerflow.elastic.training.sampling import SampleOrder
from powerflow.errors import InputError


def whole(global_batch: int) -> int:
    """Return a global batch as Python's own integer, whatever kind of integer it is.

    Raises:
        InputError: It is no whole number, or less than 1.
    """
    try:
        number = operator.index(global_batch)
    except TypeError:
        number = 0
    if number < 1:
        raise InputError(f"global_batch is {global_batch!r}", where="run.batches", fix="give a whole number, 1 or more")
    return number


class EpochSampler:
    """The sampler that scripts expect of a loader; setting its epoch changes nothing."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        """Return the samples that one epoch trains, over all ranks."""
        return self._samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order of samples follows from the seed and the number of the epoch that the run is in."""


class Batches:
    """Batches of one epoch, one pass at a time; may be made before the first epoch, and gone through in each.

    Everything about it is of the whole job, so it does not depend on the number of ranks: ``len`` is the steps of an
    epoch, ``batch_size`` the samples of a step. What it yields is this rank's: its share of each step, in one pass or
    several. Other attributes (``num_workers``, ``collate_fn``, …) are those of the DataLoader behind it.

    Attributes:
        order: Order of samples, and how they make steps.
        feed: What loads them.
        dataset: As given to ``run.batches``.
        batch_size: Samples per step over all ranks.
        drop_last: Whether the last step is left out where it would be smaller.
        sampler: Has ``set_epoch`` and a length; the former does nothing.
    """

    def __init__(self, feed: Feed, order: SampleOrder, begin: Callable[[Batches], Generator[Any]]) -> None:
        self.order = order
        self.feed = feed
        self.dataset = feed.dataset
        self.batch_size = order.global_batch
        self.drop_last = order.drop_last
        self.sampler = EpochSampler(min(order.samples, order.steps * order.global_batch))
        self._begin = begin
        self._loop: Generator[Any] | None = None

    def __len__(self) -> int:
        """Return the steps of one epoch, whatever is left of it and however many passes each takes."""
        return self.order.steps

    def __iter__(self) -> Iterator[Any]:
        """Begin what is left of the epoch that the run is in."""
        if self._loop is not None:  # `next` has begun it
            return self
        return self._begin(self)

    def __next__(self) -> Any:
        """Return the batch of the next pass."""
        if self._loop is None:
            self._loop = self._begin(self)
        try:
            return next(self._loop)
        except StopIteration:
            self._loop = None
            raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "feed":
            raise AttributeError(name)
        return getattr(self.feed.loader, name)
