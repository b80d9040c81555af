"""Which samples each rank trains on, and when: a function of seed, epoch and step, whatever the number of ranks.

Step k of an epoch takes samples ``permutation[k·B : (k+1)·B]`` (the last step what is left). They are cut into one
contiguous share per rank, and each share into as many passes as it takes for none to be larger than one GPU can hold.
So a run that changes its number of ranks at every step still goes through the same batches as one that never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Position(NamedTuple):
    """How far a run is: steps done over all epochs, epoch, steps done in it, samples trained."""

    step: int = 0
    epoch: int = 0
    within: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """The order in which a data set of so many samples is gone through, B = ``global_batch`` samples a step.

    ``drop_last`` leaves out the last step of an epoch where it would be smaller.
    """

    samples: int
    global_batch: int
    shuffle: bool
    seed: int
    drop_last: bool = False

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        if self.drop_last:
            return self.samples // self.global_batch
        return -(-self.samples // self.global_batch)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Indices of all samples, as this epoch takes them."""
        if not self.shuffle:
            return np.arange(self.samples)
        return np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    def size(self, step: int) -> int:
        """Samples of one step of an epoch."""
        return min(self.global_batch, self.samples - step * self.global_batch)


class Pass(NamedTuple):
    """One forward and backward: samples ``begin`` to ``end`` of the step's batch.

    ``weight`` is what to multiply the mean loss of the pass with, so that the sum over passes of the average over
    ranks (which is what DDP forms) is the mean over the whole batch.
    """

    begin: int
    end: int
    weight: float
    last: bool


@lru_cache(maxsize=8)
def split(size: int, rank: int, ranks: int, most: int, least: int = 1) -> tuple[Pass, ...]:
    """The passes of one rank over its share of a batch.

    All ranks make the same number of passes, because they meet in the last one. A pass for which nothing is left
    takes the batch's first samples with weight 0.

    Args:
        size: Samples of the batch, ≥ 1.
        rank: Whose share.
        ranks: How many share it.
        most: Most samples of one pass; 0: no limit.
        least: Fewest samples of one pass, 1 or 2, as far as ``size`` and ``most`` allow.
    """
    largest = -(-size // ranks)
    count = -(-largest // most) if most else 1
    filler = min(size, least, most or least)
    if least > 1 and size < least * ranks * count:  # some would be too small: fewer passes, and for some ranks none
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
