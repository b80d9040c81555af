"""Rank jobs whose sizes are uncertain."""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.kernel import kernel

SIZE_STEP = 0.1  # logarithms of sizes and of their uncertainty are rounded to these steps
SD_STEP = 0.4
_SQRT_HALF = math.sqrt(0.5)


def expected_ranks(size: FloatArray, log_sd: FloatArray, weight: FloatArray) -> FloatArray:
    """Return for each job the expected weight of all jobs that are at least as large as this job.

    With known sizes this is the rank i_j of docs/policies.md, "prices". With lognormal sizes, job l is at least as
    large as job j with probability Φ((μ_l − μ_j) / √(σ_l² + σ_j²)). So if nothing is known of the sizes, all ranks are
    alike. The weight of the job itself is included. Jobs of about the same size and uncertainty form one group:
    of two such jobs, each is the larger one with probability 1/2.

    Args:
        size: ``[J]`` median size of each of J jobs, in any unit; ``inf`` for jobs that are larger than all others.
        log_sd: ``[J]`` standard deviation of its logarithm.
        weight: ``[J]`` weight of each job.
    """
    known = np.isfinite(size) & (size > 0.0)
    level = np.where(known, np.rint(np.log(np.where(known, size, 1.0)) / SIZE_STEP), 1e4)
    width = np.rint(np.log(np.maximum(log_sd, 1e-2)) / SD_STEP)
    cells, cell = np.unique(np.stack([level, width]), axis=1, return_inverse=True)
    in_cell: FloatArray = np.bincount(cell.reshape(-1), weights=weight).astype(np.float64)
    above = np.empty(len(in_cell))
    _weight_above(cells[0] * SIZE_STEP, np.exp(cells[1] * SD_STEP), in_cell, above)
    ranks: FloatArray = above[cell.reshape(-1)] + 0.5 * weight
    return ranks


@kernel
def _weight_above(center: FloatArray, sd: FloatArray, weight: FloatArray, above: FloatArray) -> None:
    """Compute for each group of jobs the expected weight of all jobs that are larger; ``[C]`` each for C groups."""
    for j in range(len(center)):
        above[j] = 0.0
        for i in range(len(center)):
            z = (center[i] - center[j]) / math.sqrt(sd[i] * sd[i] + sd[j] * sd[j])
            above[j] += weight[i] * 0.5 * math.erfc(-z * _SQRT_HALF)
