"""Estimate the size of jobs of unknown size from the sizes of earlier jobs (inverse Gittins index).

The Gittins index of a job is its best chance per GPU-second to end soon, given the work that it has received. In the
M/G/1 queue, if only the distribution of sizes is known, serving the job with the highest index first minimises the mean
completion time (Gittins, 1979; Aalto, Ayesta and Righter, "On the Gittins index in the M/G/1 queue", Queueing Systems,
2009). The inverse of the index is used like a size, to rank jobs: the expected GPU-seconds per ended job.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray

POINTS = 64  # work levels (quantiles of the sizes seen) at which the index is computed
FEWEST = 20  # with fewer ended jobs, all jobs count as equal


def effective_sizes(seen_gpu_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the sizes by which jobs of unknown size are ranked, depending on the work that they have received.

    This effective size is the inverse of the Gittins index G, the expected GPU-seconds per ended job:
    1/G(a) = inf over Δ > 0 of E[min(X − a, Δ) | X > a] / P(X − a ≤ Δ | X > a). Here a is the work that a job has
    received, X the size of a random ended job, and Δ the further work that the job may get; all in GPU-seconds.

    Args:
        seen_gpu_s: ``[H]`` sizes of H ended jobs, ascending, GPU-seconds.

    Returns:
        ``[P]`` P amounts of received work, ascending from 0, and ``[P]`` the effective sizes for these amounts, both in
        GPU-seconds. If fewer than 20 (`FEWEST`) jobs have ended, there is only the amount 0, with size 1, so that all
        jobs are equal.
    """
    if len(seen_gpu_s) < FEWEST:
        return np.zeros(1), np.ones(1)
    levels = np.unique(np.append(0.0, np.quantile(seen_gpu_s, np.linspace(0.0, 1.0, POINTS))))
    ended = np.searchsorted(seen_gpu_s, levels, side="right")  # jobs no larger than each level
    work = np.append(0.0, np.cumsum(seen_gpu_s))[ended]  # and their work
    alive = len(seen_gpu_s) - ended
    # [a, b]: of the jobs larger than level a, how many end by level b, and the work that all of them get until then
    ends = ended[None, :] - ended[:, None]
    given = (
        (work[None, :] - work[:, None]) - levels[:, None] * ends + (levels[None, :] - levels[:, None]) * alive[None, :]
    )
    later = levels[None, :] > levels[:, None]
    cost = np.where(later & (ends > 0), given / np.maximum(ends, 1), np.inf)
    sizes = cost.min(axis=1)
    # no job seen was larger than the last level; such a job is expected to need as much again as it has received
    sizes[-1] = levels[-1]
    return levels, sizes
