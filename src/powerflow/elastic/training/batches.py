"""Define the loader that ``run.batches`` returns: it yields this rank's part of a training epoch, batch by batch."""

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
        InputError: The global batch is not a whole number, or is less than 1.
    """
    try:
        number = operator.index(global_batch)
    except TypeError:
        number = 0
    if number < 1:
        raise InputError(f"global_batch is {global_batch!r}", where="run.batches", fix="give a whole number, 1 or more")
    return number


class EpochSampler:
    """The sampler that scripts expect as an attribute of a loader.

    This sampler has a length, but chooses no samples.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        """Return the number of samples of one training epoch, over all ranks."""
        return self._samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order of samples follows from the seed and the run's current training epoch."""


class Batches:
    """Loader for one training epoch after another. It yields one batch per pass.

    Its length and attributes describe the whole job and do not depend on the number of ranks: the length is the number
    of steps of an epoch, and ``batch_size`` is the samples of a step. The loader yields this rank's share of each step,
    in one or several passes. Attributes that are not listed here (``num_workers``, ``collate_fn``, …) are those of the
    DataLoader that loads the samples.

    Attributes:
        order: Order of the samples.
        feed: Object with the DataLoader that loads the samples.
        dataset: The data set.
        batch_size: Samples per step over all ranks.
        drop_last: True if the last step of an epoch is left out when it is smaller than the others.
        sampler: Object with a length, and a method ``set_epoch`` that does nothing.
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
        """Return the number of steps of one training epoch."""
        return self.order.steps

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the batches that are left in the run's current training epoch."""
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
