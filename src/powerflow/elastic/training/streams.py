"""Seed the random numbers of each rank, so that they depend on rank and step only.

When a group is formed before step s, rank r seeds the generators of torch (CPU and CUDA), numpy and Python from
``(base, s, r)``. There is one base per library: for torch the seed that the script has set (``manual_seed``), for the
other two a digest of the state with which rank 0 began the run. The bases are part of the run's state, so that new
ranks, resumed jobs and repeated jobs have the same ones. Rank 0 of the first group (s = 0) is not seeded: it continues
with the script's own numbers, as the script alone would.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

#: One number per library.
Bases = dict[str, int]


def bases() -> Bases:
    """Return the bases of a run that begins now."""
    return {
        "torch": torch.initial_seed(),
        "numpy": _digest(np.random.get_state()),  # noqa: NPY002  (the script's generator, not ours)
        "python": _digest(random.getstate()),
    }


def seed(run: Bases, step: int, rank: int) -> None:
    """Seed the generators of this process, for a group that is formed before a step."""
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
    """Return 64 bits that depend on the whole state of a generator."""
    with np.printoptions(threshold=1 << 16):
        text = repr(state)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
