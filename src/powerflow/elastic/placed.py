"""Say where a rank stands among the ranks of its job, as a script asks it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sized

import torch

from powerflow.elastic.environment import RankPlace


class RankSampler:
    """Sampler of this rank's part of a data set; it takes the place of ``DistributedSampler`` in an evaluation."""

    def __init__(self, dataset: Sized, place: Callable[[], RankPlace]) -> None:
        self._dataset = dataset
        self._place = place

    def _part(self) -> range:
        place = self._place()
        return range(place.rank, len(self._dataset), place.ranks)

    def __len__(self) -> int:
        """Return the number of samples of this rank's part."""
        return len(self._part())

    def __iter__(self) -> Iterator[int]:
        """Return the indices of this rank's part: every n-th sample, where n is the number of ranks."""
        return iter(self._part())

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order is the same in every training epoch."""


class Placed(ABC):
    """A rank with a place among the ranks of its job. The place can change between any two steps."""

    @property
    def rank(self) -> int:
        """Number of this rank. Before the first training epoch: the number that this rank will have in that epoch."""
        return self._place().rank

    @property
    def ranks(self) -> int:
        """Number of ranks. Before the first training epoch: the number of ranks in that epoch."""
        return self._place().ranks

    @property
    def local_rank(self) -> int:
        """Number of this rank among the ranks of its node."""
        return self._place().local

    @property
    def is_main(self) -> bool:
        """True on exactly one rank, number 0: the one that should log and print."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this rank; the CPU if torch can use no GPU.

        PowerFlow lets each rank see only its own GPU. torchrun lets it see all GPUs of its node.
        """
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def sampler(self, dataset: Sized) -> RankSampler:
        """Return a sampler for a ``DataLoader`` that evaluates: it gives each rank a part of a data set.

        Each time the loader is iterated, the data set is divided among the ranks of that time, and no sample is taken
        twice. Sum the results of all ranks with ``dist.all_reduce``.

        Args:
            dataset: Data set with a length.
        """
        return RankSampler(dataset, self._place)

    @abstractmethod
    def _place(self) -> RankPlace:
        """Return the place of this rank."""
