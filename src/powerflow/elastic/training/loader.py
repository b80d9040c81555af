"""Load the samples of one rank with torch's DataLoader. `sampling.split` chooses the samples of each batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from powerflow.elastic.training.sampling import Pass, Position, SampleOrder, split
from powerflow.errors import InputError

_OURS = ("batch_size", "batch_sampler", "sampler", "shuffle")


class RankSamples(Sampler[list[int]]):
    """Sampler of one rank: yields a list of sample indices for each pass.

    The first pass is at a position of the run, the last at the end of the training epoch.
    """

    def __init__(self) -> None:
        self.least = 1
        self.order = SampleOrder(0, 1, False, 0)
        self.position = Position()
        self.rank, self.ranks, self.most = 0, 1, 0

    def passes(self, step: int) -> tuple[Pass, ...]:
        """Return the passes of this rank in one step of the training epoch."""
        return split(self.order.size(step), self.rank, self.ranks, self.most, self.least)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.order.epoch(self.position.epoch)
        for step in range(self.position.within, self.order.steps):
            batch = epoch[step * self.order.global_batch :]
            for begin, end, _, _ in self.passes(step):
                yield batch[begin:end].tolist()


class Feed:
    """A DataLoader that can start at any position of the run, for any rank.

    The worker processes of the DataLoader may continue to run between two starts.
    """

    def __init__(self, dataset: Dataset[Any], options: dict[str, Any]) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(
                "an elastic run needs a data set with a length and items by index",
                where=type(dataset).__name__,
                fix="an iterable data set cannot be divided among ranks that come and go",
            )
        if taken := sorted(set(options) & set(_OURS)):
            raise InputError(
                f"run.batches sets {', '.join(taken)} itself", where="run.batches", fix="give global_batch and shuffle"
            )
        self.dataset = dataset
        self.options = options
        self.share = RankSamples()
        self._generator = torch.Generator()
        # its own generator, so that the number of starts does not change the script's random numbers
        self.loader = DataLoader(dataset, batch_sampler=self.share, **{"generator": self._generator, **options})

    def serves(self, dataset: Dataset[Any], options: dict[str, Any]) -> bool:
        """Return True if this feed was made for the same data set and the same options."""
        return dataset is self.dataset and options == self.options

    def start(
        self, order: SampleOrder, position: Position, rank: int, ranks: int, most: int, least: int
    ) -> Iterator[Any]:
        """Return an iterator over the batches of one rank, from a position to the end of its training epoch.

        Args:
            order: Order of the samples.
            position: Where to start.
            rank, ranks: Number of the rank, and number of all ranks.
            most: Most samples of one pass; 0 for no limit.
            least: Fewest samples of one pass.
        """
        share = self.share
        share.least = least
        share.order, share.position, share.rank, share.ranks, share.most = order, position, rank, ranks, most
        seed = np.random.SeedSequence((order.seed, position.step, rank)).generate_state(1, np.uint64)[0]
        self._generator.manual_seed(int(seed >> np.uint64(1)))
        return iter(self.loader)
