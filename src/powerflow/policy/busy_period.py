"""Compute how many jobs wait for each job: active jobs, and jobs that will probably come.

A GPU-second that one job uses delays all jobs that end later, until the GPUs have no work left. So its price is the
number of jobs that it delays, divided by the number of GPUs. If the least remaining work is served first (of jobs
with weights: the least work / weight), it delays:

- active jobs with at least as much work left;
- jobs to come. A job of size y that comes is delayed only while GPUs are busy with jobs of at most this size. This time
  is a *busy period*, B(y) = W(y) / (G·(1 − ρ(y))): W(y) GPU-seconds of such jobs wait for G GPUs now, and more such
  jobs come at a load of ρ(y).

The formula is that of the M/G/1 queue (Schrage and Miller, "The queue M/G/1 with the shortest remaining processing time
discipline", Operations Research, 1966), with G GPUs as one fast server.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import kernel

#: A busy period is at most this many times as long as the work that is waiting now. At a load above 1 it would not end,
#: but such a load does not last. The value 8 was the best of 4, 8 and 20 (docs/policies.md, "prices").
LONGEST = 8.0
#: Jobs are expected to come for at most this many times the time for which submissions have been recorded. So a burst
#: of jobs soon after the start does not look like a rate that lasts.
FORESIGHT = 3.0


@kernel
def ranks(size: FloatArray, weight: FloatArray, order: IntArray, rank: FloatArray) -> None:
    """Compute for each job the sum of the weights of all jobs that are at least as large as this job.

    Args:
        size: ``[J]`` size of each of J jobs, in any unit.
        weight: ``[J]`` weight of each job.
        order: ``[J]`` rows of the jobs by ascending size.
        rank: ``[J]`` result: the sums. The weight of the job itself is included.
    """
    at_least = 0.0
    last = len(size) - 1
    while last >= 0:
        # jobs of equal size share the rank of their whole group
        first = last
        while first >= 0 and size[order[first]] == size[order[last]]:
            at_least += weight[order[first]]
            first -= 1
        for i in range(first + 1, last + 1):
            rank[order[i]] = at_least
        last = first


@kernel
def add_jobs_to_come(
    size: FloatArray,
    fewest: IntArray,
    order_by: FloatArray,
    order: IntArray,
    capacity: int,
    arrived_by: FloatArray,
    weight_from: FloatArray,
    gpu_s_up_to: FloatArray,
    span_s: float,
    busy: FloatArray,
    rank: FloatArray,
) -> None:
    """Add to each job's rank the weight of the jobs that will probably come and wait for it.

    Jobs are expected to come as they came in the last ``span_s`` seconds. A job that comes is delayed if the busy
    period of its size has not ended. If it comes before the active job ends, it must also be at least as large.

    Args:
        size: ``[J]`` remaining work of each of J jobs, GPU-seconds; ``inf`` for a job that can run on no GPU count.
        fewest: ``[J]`` the fewest GPUs on which each job can run, on which ``size`` is counted.
        order_by: ``[J]`` size / weight of each job: jobs are served in this order.
        order: ``[J]`` rows of the jobs in this order.
        capacity: G, the number of GPUs.
        arrived_by, weight_from, gpu_s_up_to: ``order_by``, ``weight_from`` and ``gpu_s_up_to`` of `Arrivals`.
        span_s: The seconds; more than 0.
        busy: ``[2, A + 1]`` working memory for A submissions.
        rank: ``[J]`` result: the weights are added to its values.
    """
    arrived = len(arrived_by)
    ends, weighted = busy[0], busy[1]
    # as plain Python this loop takes most of the time of a decision about few jobs: so it has few operations
    limit_s, span_gpu_s, least_idle = FORESIGHT * span_s, capacity * span_s, 1.0 / LONGEST
    waiting_s = 0.0
    smaller = 0
    next_by = order_by[order[0]] if len(order) else np.inf
    for a in range(arrived):
        while next_by <= arrived_by[a]:
            waiting_s += size[order[smaller]] / capacity
            smaller += 1
            next_by = order_by[order[smaller]] if smaller < len(order) else np.inf
        ends[a] = min(waiting_s / max(1.0 - gpu_s_up_to[a] / span_gpu_s, least_idle), limit_s)
    weighted[arrived] = 0.0
    for a in range(arrived - 1, -1, -1):
        weighted[a] = weighted[a + 1] + (weight_from[a] - weight_from[a + 1]) * ends[a]

    ahead = 0.0  # work of all jobs that are served before
    first = larger = 0
    while first < len(order) and order_by[order[first]] < np.inf:
        level = order_by[order[first]]
        alike = 0.0
        last = first
        while last < len(order) and order_by[order[last]] == level:
            alike += size[order[last]]
            last += 1
        while larger < arrived and arrived_by[larger] < level:
            larger += 1
        for at in range(first, last):
            # of jobs that are served alike, each is expected to end when half of their work is done
            end_s = max((ahead + 0.5 * alike) / capacity, size[order[at]] / fewest[order[at]])
            # those from `larger` on wait from now until their busy period ends, smaller ones only after this job's end
            later = min(_count_up_to(ends, arrived, end_s), larger)
            come = weighted[later] - end_s * (weight_from[later] - weight_from[larger])
            rank[order[at]] += come / span_s
        ahead += alike
        first = last


@kernel
def _count_up_to(values: FloatArray, count: int, value: float) -> int:
    """Return how many of the first ``count`` of some ascending values are not above ``value``."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if values[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low
