"""Provide `prices`, the default policy: GPUs and energy have prices, and each job bids for its GPUs.

The prices come from Lagrangian duality (docs/policies.md, "prices"):

1. The GPUs of a job make other jobs wait, active ones and jobs to come. So the price of a GPU is proportional to the
   number of these jobs (`powerflow.policy.busy_period`). The price of a joule is the energy price λ_E.
2. The worth ``v_j`` of an iteration of job j is the lowest cost of the iteration at these prices.
3. From this worth follows ``V_j(n)``, the gain of job j from n GPUs. Each GPU goes to the job whose gain rises most.

Clocks follow from the same prices: when a queue forms, an iteration is worth more, so that higher clocks are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.policy.busy_period import add_jobs_to_come, ranks
from powerflow.policy.expected_ranks import expected_ranks
from powerflow.policy.prices_kernel import allocate, gpu_seconds
from powerflow.policy.protocol import Allocation, View


@dataclass(slots=True)
class Prices:
    """Allocate GPUs by prices: jobs bid for GPUs with what their iterations are worth (docs/policies.md, "prices").

    Attributes:
        name: The name of the policy, ``prices``.
        needs_sizes: False: the policy also works if it is not known how much work jobs have left.
        period_s: None: only events make a new decision necessary.
    """

    name: str = field(default="prices", init=False)
    needs_sizes: bool = field(default=False, init=False)
    period_s: float | None = field(default=None, init=False)

    def decide(self, view: View) -> Allocation:
        """Return an allocation: each GPU goes to the job that gains most by it, at the prices of GPUs and energy."""
        answer = view.nothing()
        jobs = view.jobs
        if len(jobs) == 0 or view.capacity == 0:
            return answer
        count = len(jobs)
        rank_and_slope, by_offer = np.empty((2, count)), np.empty((2, count, len(view.gpu_counts)), np.int64)
        rank_and_slope[0] = ranks_of(view)
        answer.worth = np.empty(count)
        price = allocate(
            jobs["remaining"],
            jobs["attained_gpu_s"],
            jobs["weight"],
            jobs["pause_s"],
            jobs["gpus"],
            jobs["gpus_min"],
            jobs["gpus_max"],
            jobs["cost"],
            jobs["listed"],
            view.gpu_counts,
            view.count_index,
            view.step_time_s,
            view.power_w,
            view.idle_w,
            view.capacity,
            view.energy_prices,
            view.sizes_known,
            answer.gpus,
            answer.clock,
            answer.worth,
            np.empty((count, len(view.gpu_counts))),
            by_offer[0],
            by_offer[1],
            rank_and_slope,
            np.empty((4, count), np.int64),
        )
        answer.gpu_price = float(price)
        return answer


def ranks_of(view: View) -> FloatArray:
    """Return the rank of each job: the (expected) summed weight of all jobs that wait for it, active or to come.

    Jobs are ranked by size / weight, because it is best to serve them in this order (Smith's rule).
    """
    jobs = view.jobs
    size, fewest = sizes(view)
    order_by = size / jobs["weight"]
    order = order_by.argsort(kind="stable")
    if np.count_nonzero(jobs["size_log_sd"]):
        rank = expected_ranks(order_by, jobs["size_log_sd"], jobs["weight"])
    else:
        rank = np.empty(len(jobs))
        ranks(order_by, jobs["weight"], order, rank)
    come, span_s = view.arrivals, view.now_s - view.arrivals.since_s
    if len(come.order_by) and span_s > 0.0:
        come_by, weight_from, gpu_s_up_to = come.order_by, come.weight_from, come.gpu_s_up_to
        share = time_share(view, fewest)
        add_jobs_to_come(
            size, fewest, order_by, order, view.capacity, come_by, weight_from, gpu_s_up_to, span_s, share, rank
        )
    return rank


def time_share(view: View, fewest: IntArray) -> float:
    """Return the share of time in what active jobs cost: Σ w / Σ(w + λ_E·D), with the watts D above idle.

    Jobs count on their fewest GPUs at the maximum clock. The share is 1 if energy costs nothing. The smaller it is, the
    lower clocks jobs choose, and the more they can make up for a delay by a higher clock.
    """
    joule = view.energy_prices
    if not np.count_nonzero(joule):
        return 1.0
    jobs = view.jobs
    able = fewest > 0
    watts = view.power_w[jobs["cost"], view.count_index[fewest], -1] - fewest * view.idle_w
    weight = float(jobs["weight"][able].sum())
    return weight / (weight + float((joule * watts)[able].sum())) if weight > 0.0 else 1.0


def sizes(view: View) -> tuple[FloatArray, IntArray]:
    """Return the remaining work of each job in GPU-seconds, known or expected, and the GPUs on which it is counted.

    These are the fewest GPUs on which the job can run, at the maximum clock. The work is ``inf`` for a job that can run
    on no GPU count, or of whose size nothing at all is known.
    """
    jobs = view.jobs
    work, fewest = np.empty(len(jobs)), np.empty(len(jobs), np.int64)
    gpu_seconds(jobs["remaining"], jobs["gpus_min"], jobs["cost"], view.gpu_counts, view.step_time_s, work, fewest)
    if np.count_nonzero(jobs["size_log_sd"]):
        work = np.where(jobs["size_log_sd"] > 0.0, jobs["expected_gpu_s"], work)
    return work, fewest
