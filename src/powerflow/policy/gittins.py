"""Estimate the size of jobs of unknown size from the sizes of earlier jobs (inverse Gittins index).

The Gittins index is the best chance per GPU-second that a job ends soon, given the work it has received. Serving the
highest index first minimises mean completion time in the M/G/1 queue when only the distribution of sizes is known
(Gittins, 1979; Aalto, Ayesta and Righter, "On the Gittins index in the M/G/1 queue", Queueing Systems, 2009). Its
inverse is a size to rank by: the expected GPU-seconds per ended job.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray

POINTS = 64  # work levels (quantiles of the sizes seen) at which the index is computed
FEWEST = 20  # with fewer ended jobs, all jobs count as equal


def effective_sizes(seen_gpu_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the expected GPU-seconds per ended job, by the work that a job has received.

    1/G(a) = inf over Δ > 0 of E[min(X − a, Δ) | X > a] / P(X − a ≤ Δ | X > a), where X is a size seen and a the work.

    Args:
        seen_gpu_s: ``[H]`` sizes of ended jobs, ascending, GPU-seconds.

    Returns:
        ``[P]`` work levels a, ascending from 0, and ``[P]`` effective sizes there. With too few ended jobs there is one
        level, so that all jobs are equal.
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
