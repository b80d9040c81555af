"""Compute how many jobs wait for each job: active jobs, and jobs that will probably come.

The price of a GPU-second that a job saves is the price at the time at which the job ends: the number of jobs that the
GPU-second then delays, divided by the number of GPUs. If the least remaining work is served first (of jobs with
weights: the least work / weight), it delays:

- active jobs with at least as much work left;
- jobs that will come. A job of size y that comes is delayed only while GPUs are busy with jobs of at most this size.
  This time is a *busy period*, B(y) = W(y) / (G·(1 − ρ(y))): W(y) GPU-seconds of such jobs wait for G GPUs now, and
  more such jobs come at a load of ρ(y). So A = Σ λ(y)·B(y) jobs come and are delayed;
- jobs that come before the job ends, and are then still there: A as well, in a steady flow (Little's law).

Nobody knows how long jobs will go on coming. So the jobs that are not active count less, the later a job ends.

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
#: A busy period is at most this many times the time for which submissions have been recorded. So a burst of jobs soon
#: after the start does not look like a rate that lasts.
FORESIGHT = 3.0
#: With probability 1/2 jobs still come after this many times the time for which submissions have been recorded. For a
#: process of which only its age is known the factor is 1 (Gott, "Implications of the Copernican principle for our
#: future prospects", Nature, 1993). The record may begin later than the process; 2 was better than 1 and 3.
LASTING = 2.0


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
    share: float,
    rank: FloatArray,
) -> None:
    """Add to each job's rank the weight of the jobs that have not come yet and will probably wait for it.

    Jobs are expected to come as they came in the last ``span_s`` seconds. The later a job ends, the less likely they
    still come then.

    Args:
        size: ``[J]`` remaining work of each of J jobs, GPU-seconds; ``inf`` for a job that can run on no GPU count.
        fewest: ``[J]`` the fewest GPUs on which each job can run, on which ``size`` is counted.
        order_by: ``[J]`` size / weight of each job: jobs are served in this order.
        order: ``[J]`` rows of the jobs in this order.
        capacity: G, the number of GPUs.
        arrived_by, weight_from, gpu_s_up_to: ``order_by``, ``weight_from`` and ``gpu_s_up_to`` of `Arrivals`.
        span_s: The seconds; more than 0.
        share: The weights are multiplied by this: time's share of the cost of running (`powerflow.policy.prices`).
        rank: ``[J]`` result: the weights are added to its values.
    """
    # as plain Python this loop takes most of the time of a decision about few jobs: so it has few operations
    limit_s, span_gpu_s, least_idle = FORESIGHT * span_s, capacity * span_s, 1.0 / LONGEST
    waiting_s = weight_seconds = 0.0
    smaller = 0
    next_by = order_by[order[0]] if len(order) else np.inf
    for a in range(len(arrived_by)):
        while next_by <= arrived_by[a]:
            waiting_s += size[order[smaller]] / capacity
            smaller += 1
            next_by = order_by[order[smaller]] if smaller < len(order) else np.inf
        busy_s = min(waiting_s / max(1.0 - gpu_s_up_to[a] / span_gpu_s, least_idle), limit_s)
        weight_seconds += (weight_from[a] - weight_from[a + 1]) * busy_s
    # so many come within the busy period of their size; in a steady flow, as many have come before and are still there
    steady = 2.0 * share * weight_seconds / span_s
    lasting_s = LASTING * span_s
    for j in range(len(size)):
        if size[j] < np.inf:
            rank[j] += steady * lasting_s / (lasting_s + size[j] / fewest[j])
