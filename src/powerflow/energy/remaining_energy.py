"""What the jobs that are there still need: energy above idle, at each price of energy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from powerflow.arrays import FloatArray, IntArray


def owed(
    prices: Sequence[float],
    remaining: FloatArray,
    weight: FloatArray,
    gpus_min: IntArray,
    gpus_max: IntArray,
    cost: IntArray,
    gpu_counts: IntArray,
    step_time_s: FloatArray,
    power_w: FloatArray,
    baseline_w: float,
) -> list[float]:
    """Joules above idle to finish every job on one pool, each in the configuration that costs it least.

    Least in T·w + λ_E·D·T (design §5, step 2, without the rent of a GPU: nobody knows the queue to come).

    Args:
        prices: λ_E, seconds per joule.
        remaining: ``[J]`` believed iterations to do; nan, where unknown, counts as none.
        weight: ``[J]`` priorities.
        gpus_min, gpus_max: ``[J]`` fewest and most GPUs of each job.
        cost: ``[J]`` row of each job in the tables.
        gpu_counts: ``[N]``.
        step_time_s, power_w: ``[C, N, F]`` seconds and watts of one iteration.
        baseline_w: Watts that a GPU in use does not add (an idle GPU's).

    Returns:
        Joules, one for each price.
    """
    left = np.nan_to_num(remaining, nan=0.0)
    rows, of = np.unique(cost, return_inverse=True)
    time_s = step_time_s[rows]
    runs = np.isfinite(time_s)
    added_w = np.where(runs, power_w[rows] - baseline_w * gpu_counts[None, :, None], 0.0)
    energy_j = (added_w * np.where(runs, time_s, 0.0)).reshape(len(rows), -1)[of]
    may = (gpu_counts >= gpus_min[:, None]) & (gpu_counts <= gpus_max[:, None])
    time_s = np.where(may[:, :, None], time_s[of], np.inf).reshape(len(left), -1)
    found = []
    for price in prices:
        best = (time_s * weight[:, None] + price * energy_j).argmin(axis=1)
        found.append(float(np.sum(left * energy_j[np.arange(len(left)), best])))
    return found
