"""The loader that ``run.batches`` returns: like a DataLoader, it yields this rank's part of an epoch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator
from typing import Any

from powerflow.elastic.training.loader import Feed
from powerflow.elastic.training.sampling import SampleOrder
from powerflow.errors import InputError


def whole(global_batch: int) -> int:
    """Return a global batch of any integer type as an int.

    Raises:
        InputError: It is not a whole number, or less than 1.
    """
    try:
        number = operator.index(global_batch)
    except TypeError:
        number = 0
    if number < 1:
        raise InputError(f"global_batch is {global_batch!r}", where="run.batches", fix="give a whole number, 1 or more")
    return number


class EpochSampler:
    """The sampler that scripts expect a loader to have."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        """Return the samples of one epoch, over all ranks."""
        return self._samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order of samples follows from the seed and the epoch of the run."""


class Batches:
    """Loader of one epoch after another, one batch per pass.

    Its length and attributes describe the whole job, independent of the number of ranks: the length is the steps of an
    epoch, ``batch_size`` the samples of a step. It yields this rank's share of each step, in one or several passes.
    Attributes that are not listed (``num_workers``, ``collate_fn``, …) are those of the DataLoader behind it.

    Attributes:
        order: Order of the samples.
        feed: The DataLoader behind it.
        dataset: The data set.
        batch_size: Samples per step over all ranks.
        drop_last: Whether the last step is left out if it is smaller.
        sampler: Has a length, and a method ``set_epoch`` that does nothing.
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
        """Return the steps of one epoch."""
        return self.order.steps

    def __iter__(self) -> Iterator[Any]:
        """Begin with what is left of the current epoch of the run."""
        if self._loop is not None:  # begun by `next`
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
