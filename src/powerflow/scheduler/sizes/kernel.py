"""Compute expected sizes of jobs in compiled code, from mixtures of lognormal distributions.

`powerflow.scheduler.sizes.learner` explains where the distributions come from.
"""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import kernel

#: A component with a smaller share of the probability is left out.
LEAST_SHARE = 0.05
#: A value of b (`gittins_sizes`) is tried only if at least this share of the jobs ends before b, because the
#: probabilities are approximations.
LEAST_ENDED = 0.02


@kernel
def alone(
    requested: IntArray,
    gpus_min: IntArray,
    cost: IntArray,
    gpu_counts: IntArray,
    step_time_s: FloatArray,
    log_step_s: FloatArray,
    log_step_gpu_s: FloatArray,
) -> None:
    """Compute the time and the GPU time of an iteration of each job at the maximum clock.

    Args:
        requested, gpus_min, cost: ``[J]`` columns of `JOB`.
        gpu_counts: ``[N]`` GPU counts, ascending.
        step_time_s: ``[K, N, F]`` (classes × GPU counts × clocks) seconds per iteration.
        log_step_s: ``[J]`` result: logarithm of the seconds on the requested GPUs. If a job cannot run on this count,
            the next lower count on which it can run is used, or else the next higher one; nan if there is none.
        log_step_gpu_s: ``[J]`` result: logarithm of the GPU-seconds on the fewest GPUs on which a job can run; nan if
            there are none.
    """
    for j in range(len(requested)):
        log_step_s[j] = log_step_gpu_s[j] = np.nan
        for i in range(len(gpu_counts)):
            step_s = step_time_s[cost[j], i, -1]
            if gpu_counts[i] < gpus_min[j] or not 0.0 < step_s < np.inf:
                continue
            if np.isnan(log_step_s[j]):
                log_step_gpu_s[j] = math.log(step_s * gpu_counts[i])
            elif gpu_counts[i] > requested[j]:
                break
            log_step_s[j] = math.log(step_s)


@kernel
def raise_by_active(
    center: FloatArray, group: IntArray, least: FloatArray, log_done: FloatArray, top: FloatArray
) -> None:
    """Raise the expected length of jobs if another active job of their group has run for longer already.

    Otherwise, if the jobs of a group take longer than expected, they would stop each other in turn: the jobs that wait
    would look shorter than the jobs that run.

    Args:
        center: ``[J]`` logarithm of the expected length of each job; changed. It is nan if no job of its group has
            completed. Then it becomes that of the longest run of another active job, if there is one.
        group: ``[J]`` group of each job; -1 for none.
        least: ``[J]`` logarithm: only longer runs of other jobs count.
        log_done: ``[J]`` logarithm of how long each job has run, in the unit of ``center``.
        top: ``[2, groups]`` working memory: the longest and the second longest run in each group.
    """
    for j in range(len(group)):
        if group[j] >= 0:
            top[0, group[j]] = top[1, group[j]] = -np.inf
    for j in range(len(group)):
        if group[j] >= 0 and not np.isnan(log_done[j]):
            second = min(top[0, group[j]], log_done[j])
            top[0, group[j]] = max(top[0, group[j]], log_done[j])
            top[1, group[j]] = max(top[1, group[j]], second)
    for j in range(len(group)):
        if group[j] >= 0:
            other = top[1, group[j]] if log_done[j] == top[0, group[j]] else top[0, group[j]]
            if other > least[j] and not center[j] >= other:
                center[j] = other


@kernel
def _below(z: float) -> float:
    """Return the probability that a standard normal variable is below ``z``, within 0.0002.

    The approximation is three times as fast as erfc (Page, Applied Statistics 26, 1977).
    """
    return 1.0 / (1.0 + math.exp(-min(max(z * (1.5976 + 0.070566 * z * z), -50.0), 50.0)))


@kernel
def gittins_sizes(
    center: FloatArray,
    spread: FloatArray,
    share: FloatArray,
    done: FloatArray,
    size: FloatArray,
    log_sd: FloatArray,
    work: FloatArray,
) -> None:
    """Compute the size by which each job is ranked: the inverse of its Gittins index.

    The total work X of a job is a mixture of lognormal distributions; a is the work that it has received. The result is

        1/G(a) = min over b > a of E[min(X, b) − a | X > a] / P(X ≤ b | X > a),

    the least expected work per ended job, if the job is served until it ends or has received b (Gittins, 1979; Aalto,
    Ayesta and Righter, "On the Gittins index in the M/G/1 queue", Queueing Systems, 2009). If the size is certain, it
    is the remaining work. For a lognormal X, E[X; a < X ≤ b] = exp(μ + σ²/2)·(Φ(z_b − σ) − Φ(z_a − σ)), where
    z_x = (ln x − μ)/σ. For each component of the mixture three values of b are tried: ln b = μ − σ, μ + σ/2, μ + 2σ.

    Args:
        center: ``[K, J]`` μ, logarithm of the median, of each component for each job; nan if the job does not have this
            component.
        spread: ``[K]`` σ, standard deviation of the logarithm, of each component.
        share: ``[K]`` probability of each component.
        done: ``[J]`` a, work received.
        size: ``[J]`` result, in the unit of ``done``. A job that has received more work than all components predict is
            expected to need as much again.
        log_sd: ``[J]`` result: standard deviation of ln X. Each component counts with its probability above a.
        work: ``[3, K]`` working memory.
    """
    left, mean, below_a = work[0], work[1], work[2]
    for j in range(len(done)):
        log_a = math.log(done[j]) if done[j] > 0.0 else -np.inf
        total = alive = 0.0
        for k in range(len(share)):
            left[k] = 0.0
            if not np.isnan(center[k, j]):
                total += share[k]
                left[k] = share[k] * _below((center[k, j] - log_a) / spread[k])
                alive += left[k]
        size[j], log_sd[j] = max(done[j], 1e-9), 1.0
        if not alive > 1e-6 * total:
            continue
        first = second = 0.0
        for k in range(len(share)):
            if left[k] > 0.0:
                first += left[k] / alive * center[k, j]
                second += left[k] / alive * (center[k, j] ** 2 + spread[k] ** 2)
            if left[k] < LEAST_SHARE * alive:
                left[k] = 0.0
                continue
            mean[k] = share[k] * math.exp(center[k, j] + 0.5 * spread[k] ** 2)
            below_a[k] = _below((log_a - center[k, j]) / spread[k] - spread[k])
        log_sd[j] = math.sqrt(max(second - first * first, 1e-6))
        best = np.inf
        for b in range(3 * len(share)):
            if left[b // 3] == 0.0:
                continue
            log_b = center[b // 3, j] + (-1.0, 0.5, 2.0)[b % 3] * spread[b // 3]
            if not log_b > log_a:
                continue
            limit = math.exp(log_b)
            given = ended = 0.0
            for k in range(len(share)):
                if left[k] == 0.0:
                    continue
                z = (log_b - center[k, j]) / spread[k]
                over = share[k] * _below(-z)
                given += mean[k] * (_below(z - spread[k]) - below_a[k]) + limit * over - done[j] * left[k]
                ended += left[k] - over
            if ended > LEAST_ENDED * alive:
                best = min(best, given / ended)
        if 0.0 < best < np.inf:
            size[j] = best
