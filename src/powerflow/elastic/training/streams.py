"""Seed random numbers: every rank draws its own, from a stream that is fixed for each rank and step.

Whenever a group is formed before step s, rank r seeds the generators of torch (CPU and CUDA), numpy and Python from
``(base, s, r)``. The base is one number per library: torch's is the seed that the script has given (``manual_seed``),
the other two are digests of the state that rank 0 began the run with. They belong to the run's state, so a newcomer, a
job that resumes and one that is done again on as many ranks all have them. Rank 0 of the first group (s = 0) is not
seeded: it goes on with the script's own numbers, as the script alone would.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

#: One number per library.
Bases = dict[str, int]


def bases() -> Bases:
    """Return the bases of a run that begins here and now."""
    return {
        "torch": torch.initial_seed(),
        "numpy": _digest(np.random.get_state()),  # noqa: NPY002  (the script's generator, not ours)
        "python": _digest(random.getstate()),
    }


def seed(run: Bases, step: int, rank: int) -> None:
    """Seed the generators of this process for a group that is formed before this step."""
    if (step, rank) == (0, 0):
        return

    def words(library: str, count: int) -> list[int]:
        sequence = np.random.SeedSequence((run[library], step, rank))
        return [int(word) for word in sequence.generate_state(count, np.uint32)]

    high, low = words("torch", 2)
    torch.manual_seed(high << 32 | low)
    np.random.seed(words("numpy", 8))  # noqa: NPY002
    random.seed(int.from_bytes(np.array(words("python", 8), np.uint32).tobytes(), "little"))


def _digest(state: object) -> int:
    """Return 64 bits that depend on all of a generator's state."""
    with np.printoptions(threshold=1 << 16):
        text = repr(state)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
