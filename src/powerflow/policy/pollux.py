"""Provide Pollux: share GPUs so that the power mean of all jobs' speedups is largest."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.errors import InputError
from powerflow.policy.levels import feasible, least_levels, step_times
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.steepest import gpus_of, spend
from powerflow.units import HOUR_S

#: Added to every speedup, so that a job without GPUs (speedup 0) leaves the power mean finite.
NO_SPEEDUP = 1e-3

#: Seconds between two rounds; the time since a job's last move counts as at least one round.
ROUND_S = 60.0

DEFAULT_DECAY = 0.5
DEFAULT_THRESHOLD_GPU_S = 4 * HOUR_S


class Pollux:
    """Share GPUs so that the power mean of all jobs' speedups is largest: ``(Σ w_j·s_j^p / Σ w_j)^(1/p)``, p = −1.

    Source: Qiao et al., OSDI'21, cluster-wide optimisation. The speedup of job j on n GPUs compares it with an equal
    share of all GPUs: ``s_j(n) = T_j(equal share) / T_j(n)``, with T_j seconds per iteration. Where the owner allows
    other global batches, T_j is the inverse of the paper's goodput (`powerflow.cost.goodput`). Otherwise the batch is
    fixed, and goodput is throughput. If a running job changes its GPU count, its speedup is multiplied by
    ``t / (t + δ)``. Here δ is the pause of the job, and t the time since its GPU count last changed. In the paper t is
    the time since submission, and the pauses of earlier changes are subtracted from the numerator. The weight w_j is
    the owner's priority × the paper's decay ``min(1, threshold / GPU time)^λ``, so that long jobs do not keep GPUs from
    short jobs.

    With p = −1, the mean is largest where the sum ``Σ w_j / s_j`` over all jobs is smallest. So the paper's genetic
    algorithm is replaced by a search that always takes the step with the largest saving per GPU. It starts once with no
    GPUs given and once from the present allocation (which the paper's search also includes); the better result is used.
    All jobs run at the maximum clock.

    Args:
        decay: λ of the weights; 0 switches the decay off.
        threshold_gpu_s: GPU-seconds up to which a job has its full weight.

    Raises:
        InputError: The decay is negative or infinite, or the threshold is not positive.
    """

    needs_sizes = False
    period_s: float | None = ROUND_S

    def __init__(self, decay: float = DEFAULT_DECAY, threshold_gpu_s: float = DEFAULT_THRESHOLD_GPU_S) -> None:
        if not (decay >= 0 and np.isfinite(decay)):
            raise InputError(f"decay {decay!r} is not a number ≥ 0", fix="give λ, 0.5 in the paper")
        if not threshold_gpu_s > 0:
            raise InputError(
                f"threshold {threshold_gpu_s!r} is not above 0", fix="give GPU-seconds, 14400 in the paper"
            )
        self.name = "pollux"
        if (decay, threshold_gpu_s) != (DEFAULT_DECAY, DEFAULT_THRESHOLD_GPU_S):
            self.name += f":decay={decay:g},threshold_gpu_s={threshold_gpu_s:g}"
        self.decay = decay
        self.threshold_gpu_s = threshold_gpu_s

    def decide(self, view: View) -> Allocation:
        """Return the better of two allocations: one is built from no GPUs at all, one from the present allocation."""
        allocation = view.nothing()
        jobs = view.jobs
        if not len(jobs):
            return allocation
        served = np.minimum(1.0, self.threshold_gpu_s / np.maximum(jobs["attained_gpu_s"], 1.0))
        weight = jobs["weight"] * served**self.decay
        counts = np.concatenate(([0], view.gpu_counts))
        speedup = _speedups(view)
        cost = weight[:, None] / (speedup + NO_SPEEDUP)
        cost[:, 1:][speedup[:, 1:] == 0] = np.inf
        rows = np.arange(len(jobs))
        nothing = np.zeros(len(jobs), np.int64)
        level = spend(cost, counts, nothing, view.capacity)
        known = np.where(jobs["gpus"] < len(view.count_index), jobs["gpus"], 0)
        held = view.count_index[known] + 1  # the level 0 of `counts` is no GPU
        held = np.where(np.isfinite(cost[rows, held]), held, 0)
        free = view.capacity - int(counts[held].sum())
        if free >= 0:
            grown = spend(cost, counts, held, free)
            if cost[rows, grown].sum() <= cost[rows, level].sum():
                level = grown
        allocation.gpus = gpus_of(level, counts)
        return allocation


def _speedups(view: View) -> FloatArray:
    """Return each job's speedup without GPUs and on each GPU count, compared with an equal share of all GPUs.

    The speedup includes the cost of a pause if the GPU count of a running job changes. It is 0 where a job cannot run.
    """
    jobs, counts = view.jobs, view.gpu_counts
    times = step_times(view)
    allowed = feasible(view, times)
    rows = np.arange(len(jobs))
    share = max(1, -(-view.capacity // len(jobs)))
    within = allowed & (counts <= share)
    largest = len(counts) - 1 - np.argmax(within[:, ::-1], axis=1)
    fair = np.where(np.any(within, axis=1), largest, least_levels(allowed))
    speedup = np.zeros((len(jobs), len(counts) + 1))
    np.divide(times[rows, fair][:, None], times, out=speedup[:, 1:], where=allowed)
    since_s = np.maximum(view.now_s - jobs["since_s"], ROUND_S)
    kept = since_s / (since_s + jobs["pause_s"])
    moved = (jobs["gpus"][:, None] > 0) & (counts != jobs["gpus"][:, None])
    speedup[:, 1:] *= np.where(moved, kept[:, None], 1.0)
    return speedup
