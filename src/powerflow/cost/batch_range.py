"""Define which global batches the owner of a job allows, and what an iteration at each of them is worth.

With a larger global batch B, each sample trains less. The statistical efficiency says how much less, relative to the
job's own batch B0 (Pollux, Qiao et al., OSDI'21, section 3.1):

    efficiency(B) = (φ + B0) / (φ + B)              progress per sample; φ is the gradient noise scale, in samples
    progress(B)   = (B / B0) · efficiency(B)        iterations at B0 that one iteration at B is worth
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from powerflow.errors import InputError


@dataclass(frozen=True, slots=True)
class BatchRange:
    """Global batches that a job's owner allows, and what they are worth.

    Attributes:
        least: Smallest allowed global batch, samples per iteration over all GPUs.
        most: Largest allowed global batch.
        noise_scale: φ, gradient noise scale in samples. At batch φ a sample trains half as much as in a very small
            batch. In reality φ grows during training; here it is constant.

    Raises:
        InputError: The batches are below 1 or not ascending, or the noise scale is negative or not finite.
    """

    least: int
    most: int
    noise_scale: float

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError(
                f"global batches from {self.least} to {self.most} are impossible", fix="give 1 ≤ MIN ≤ MAX"
            )
        if not 0 <= self.noise_scale < math.inf:
            raise InputError(f"noise scale {self.noise_scale:g} is impossible", fix="give samples, 0 or more")

    def __str__(self) -> str:
        return f"{self.least}..{self.most}, noise scale {self.noise_scale:g}"

    def allows(self, global_batch: int) -> bool:
        """Return True if a global batch is in this range."""
        return self.least <= global_batch <= self.most


def progress(noise_scale: float, own_batch: int, global_batch: int) -> float:
    """Return how many iterations at a job's own batch one iteration at another global batch is worth.

    The value is (B/B0)·(φ + B0)/(φ + B): below B/B0 for larger batches, and never above (φ + B0)/B0. φ is
    ``noise_scale`` in samples, B0 is ``own_batch`` and B is ``global_batch``.
    """
    efficiency = (noise_scale + own_batch) / (noise_scale + global_batch)
    return global_batch / own_batch * efficiency
