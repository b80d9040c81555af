"""Compute the energy above idle that active jobs still need, at each price of energy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from powerflow.arrays import FloatArray, IntArray


def remaining_energy(
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
    """Return, for each price, the joules above idle that all jobs of one pool (GPU type) need until they are done.

    Each job is assumed to run in its cheapest configuration, the one with the least T·w + λ_E·D·T. T is the seconds of
    an iteration, D its watts above idle, and w the job's weight (docs/policies.md, "prices"). GPUs have no price here,
    because the future queue is unknown.

    Args:
        prices: λ_E, seconds per joule.
        remaining: ``[J]`` estimated remaining iterations of each job; nan (unknown) counts as 0.
        weight: ``[J]`` weight of each job.
        gpus_min, gpus_max: ``[J]`` smallest and largest number of GPUs of each job.
        cost: ``[J]`` row of each job in the tables.
        gpu_counts: ``[N]`` GPU counts of the tables.
        step_time_s, power_w: ``[C, N, F]`` seconds and watts of one iteration.
        baseline_w: Watts of an idle GPU.

    Returns:
        Joules, one value for each price.
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
