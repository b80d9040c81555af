"""Say where a rank stands among the ranks of its job, as a script asks it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from powerflow.elastic.environment import RankPlace


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

    @abstractmethod
    def _place(self) -> RankPlace:
        """Return the place of this rank."""
