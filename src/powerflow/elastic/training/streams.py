"""Seed the random numbers of each rank, so that they depend only on the run, the rank and the step.

When a group of ranks is formed before step s, rank r seeds the random generators of torch (CPU and CUDA), numpy and
Python from ``(base, s, r)``. Each library has its own base number. For torch the base is the seed that the script has
set (``manual_seed``). For numpy and Python it is a digest of the generator's state on rank 0 when the run began. The
bases are part of the run's state. So new ranks, resumed jobs and repeated jobs use the same bases. Rank 0 of the first
group (s = 0) is not seeded: it continues with the script's own random numbers, as the script without PowerFlow would.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

#: Base number for the random generator of each library.
Bases = dict[str, int]


def bases() -> Bases:
    """Return the base numbers for the random generators of a run that begins now: one number for each library."""
    return {
        "torch": torch.initial_seed(),
        "numpy": _digest(np.random.get_state()),  # noqa: NPY002  (the script's generator, not ours)
        "python": _digest(random.getstate()),
    }


def seed(run: Bases, step: int, rank: int) -> None:
    """Seed the random generators of this process, for a group of ranks that is formed before a step.

    Args:
        run: Base numbers of the run, from `bases`.
        step: Number of the step.
        rank: Number of this rank.
    """
    if (step, rank) == (0, 0):
        return

    def words(library: str, count: int) -> list[int]:
        sequence = np.random.SeedSequence((run[library], step, rank))
        return [int(word) for word in sequence.generate_state(count, np.uint32)]

    high, low = words("torch", 2)
    if torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available():
        torch.manual_seed(high << 32 | low)
    else:  # manual_seed would only write down the call stack for each kind of device, which takes a millisecond
        torch.default_generator.manual_seed(high << 32 | low)
    np.random.seed(words("numpy", 8))  # noqa: NPY002
    random.seed(int.from_bytes(np.array(words("python", 8), np.uint32).tobytes(), "little"))


def _digest(state: object) -> int:
    """Return a 64-bit number that depends on the whole state of a random generator."""
    with np.printoptions(threshold=1 << 16):
        text = repr(state)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
