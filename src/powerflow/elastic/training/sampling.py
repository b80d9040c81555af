"""Choose the samples of each rank in each step. The choice depends only on seed, training epoch and step.

Step k of an epoch has the samples ``permutation[k·B : (k+1)·B]``, where B is the global batch (the last step has the
rest). These samples are split into one contiguous share per rank, and each share into passes that fit on one GPU. So
the samples of a step do not depend on how the number of ranks changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from powerflow.errors import InputError


class Position(NamedTuple):
    """How much a run has trained.

    The fields are: completed steps over all training epochs (``step``), the current training epoch (``epoch``),
    completed steps in this epoch (``within``), and trained samples (``samples``).
    """

    step: int = 0
    epoch: int = 0
    within: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """The order of the samples of a data set in each training epoch, with ``global_batch`` samples per step.

    If ``drop_last`` is True, the last step of an epoch is left out if it has fewer samples.
    """

    samples: int
    global_batch: int
    shuffle: bool
    seed: int
    drop_last: bool = False

    @property
    def steps(self) -> int:
        """Number of steps of one training epoch."""
        if self.drop_last:
            return self.samples // self.global_batch
        return -(-self.samples // self.global_batch)

    def refuse_too_few(self) -> None:
        """Raise an error if the data set is too small for one step.

        Raises:
            InputError: It is.
        """
        if not self.steps:
            raise InputError(
                f"{self.samples} samples are too few for a step of {self.global_batch}",
                where="run.batches",
                fix="give a smaller global_batch, or drop_last=False",
            )

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices of all samples, in their order in one training epoch."""
        if not self.shuffle:
            return np.arange(self.samples)
        return np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    def size(self, step: int) -> int:
        """Return the number of samples of step number ``step`` of a training epoch."""
        return min(self.global_batch, self.samples - step * self.global_batch)


class Pass(NamedTuple):
    """One forward and backward of a rank, on some samples of the step's batch.

    The samples are those from ``begin`` to ``end`` (not included). The mean loss of the pass is multiplied by
    ``weight``. The gradients of all passes are added up, and DDP averages them over ranks. With these weights, the
    result is the mean over the whole batch. ``last`` is True for the last pass of a step.
    """

    begin: int
    end: int
    weight: float
    last: bool


@lru_cache(maxsize=8)
def split(size: int, rank: int, ranks: int, most: int, least: int = 1) -> tuple[Pass, ...]:
    """Return the passes of one rank over its share of a batch.

    All ranks have the same number of passes, because they exchange gradients in the last one. If there is no sample
    left for a pass, it uses the first samples of the batch, with weight 0.

    Args:
        size: Samples of the batch, ≥ 1.
        rank, ranks: Number of the rank, and number of all ranks.
        most: Most samples of one pass; 0 for no limit.
        least: Fewest samples of one pass, 1 or 2. A pass has fewer if ``size`` or ``most`` does not allow it.
    """
    largest = -(-size // ranks)
    count = -(-largest // most) if most else 1
    filler = min(size, least, most or least)
    if (
        least > 1 and size < least * ranks * count
    ):  # some passes would be too small: use fewer, so that some ranks have none
        full = max(1, size // least, -(-size // most) if most else 1)
        mine = range(full * rank // ranks, full * (rank + 1) // ranks)
        cuts = [(size * i // full, size * (i + 1) // full) for i in mine]
        cuts += [(0, 0)] * (count - len(cuts))
    else:
        first, after = size * rank // ranks, size * (rank + 1) // ranks
        cuts = list(pairwise(first + (after - first) * i // count for i in range(count + 1)))
    return tuple(
        Pass(begin, end, ranks * (end - begin) / size, i == count - 1)
        if end > begin
        else Pass(0, filler, 0.0, i == count - 1)
        for i, (begin, end) in enumerate(cuts)
    )
