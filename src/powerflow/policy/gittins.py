"""How large a job of unknown size is to be taken for, from how large jobs before it were.

The Gittins index is the best chance per GPU-second that a job ends soon, given the work it has had; serving the
highest first minimises mean completion time in the M/G/1 queue when only the distribution of sizes is known (Gittins,
1979; Aalto, Ayesta and Righter, "On the Gittins index in the M/G/1 queue", Queueing Systems, 2009). Its inverse is the
GPU-seconds to be spent per job ended: a size to rank by.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray

POINTS = 64  # work levels at which the index is worked out: quantiles of the sizes seen
FEWEST = 20  # with fewer jobs seen, nothing is known yet


def effective_sizes(seen_gpu_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """GPU-seconds to be spent per job ended, by the work a job has had.

    1/G(a) = inf over Δ > 0 of E[min(X − a, Δ) | X > a] / P(X − a ≤ Δ | X > a), X one of the sizes seen.

    Args:
        seen_gpu_s: ``[H]`` sizes of jobs that have ended, ascending, GPU-seconds.

    Returns:
        ``[P]`` work levels a, ascending from 0, and ``[P]`` effective sizes there. With too few seen: one level, so
        that all jobs are taken for equal.
    """
    if len(seen_gpu_s) < FEWEST:
        return np.zeros(1), np.ones(1)
    levels = np.unique(np.append(0.0, np.quantile(seen_gpu_s, np.linspace(0.0, 1.0, POINTS))))
    ended = np.searchsorted(seen_gpu_s, levels, side="right")  # jobs no larger than each level
    work = np.append(0.0, np.cumsum(seen_gpu_s))[ended]  # and their work
    alive = len(seen_gpu_s) - ended
    # [a, b]: of those larger than level a, how many end by level b, and what all of them are given until then
    ends = ended[None, :] - ended[:, None]
    given = (
        (work[None, :] - work[:, None]) - levels[:, None] * ends + (levels[None, :] - levels[:, None]) * alive[None, :]
    )
    later = levels[None, :] > levels[:, None]
    cost = np.where(later & (ends > 0), given / np.maximum(ends, 1), np.inf)
    sizes = cost.min(axis=1)
    # nobody seen was larger than the last level: such a job is expected to need as much again as it has had
    sizes[-1] = levels[-1]
    return levels, sizes
