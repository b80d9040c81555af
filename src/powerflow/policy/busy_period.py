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
    arrived_gpu_s: FloatArray,
    arrived_weight: FloatArray,
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
        arrived_gpu_s: ``[A]`` sizes of the A jobs that were submitted in the last ``span_s`` seconds, by ascending
            size / weight.
        arrived_weight: ``[A]`` their weights.
        span_s: The seconds; more than 0.
        busy: ``[3, A + 1]`` working memory.
        rank: ``[J]`` result: the weights are added to its values.
    """
    arrived = len(arrived_gpu_s)
    ends, weights, weighted = busy[0], busy[1], busy[2]
    waiting = load = 0.0
    smaller = first = 0
    while first < arrived:
        # submissions that are served alike have one busy period
        level = arrived_gpu_s[first] / arrived_weight[first]
        last = first
        while last < arrived and arrived_gpu_s[last] / arrived_weight[last] == level:
            load += arrived_gpu_s[last] / (capacity * span_s)
            last += 1
        while smaller < len(order) and order_by[order[smaller]] <= level:
            waiting += size[order[smaller]]
            smaller += 1
        longer = min(1.0 / (1.0 - load), LONGEST) if load < 1.0 else LONGEST
        for a in range(first, last):
            ends[a] = min(longer * waiting / capacity, FORESIGHT * span_s)
        first = last
    weights[arrived] = weighted[arrived] = 0.0
    for a in range(arrived - 1, -1, -1):
        weights[a] = weights[a + 1] + arrived_weight[a]
        weighted[a] = weighted[a + 1] + arrived_weight[a] * ends[a]

    ahead = 0.0  # work of all jobs that are served before
    first = not_smaller = 0
    while first < len(order) and order_by[order[first]] < np.inf:
        level = order_by[order[first]]
        alike = 0.0
        last = first
        while last < len(order) and order_by[order[last]] == level:
            alike += size[order[last]]
            last += 1
        while not_smaller < arrived and arrived_gpu_s[not_smaller] / arrived_weight[not_smaller] < level:
            not_smaller += 1
        for at in range(first, last):
            # of jobs that are served alike, each is expected to end when half of their work is done
            end_s = max((ahead + 0.5 * alike) / capacity, size[order[at]] / fewest[order[at]])
            later = _count_up_to(ends, arrived, end_s)
            come = weighted[later] - end_s * weights[later]  # after its end
            if later > not_smaller:  # before its end
                come += weighted[not_smaller] - weighted[later] + end_s * weights[later]
            else:
                come += end_s * weights[not_smaller]
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
