"""Provide `prices`, the default policy: GPUs and energy have prices, and each job bids for its GPUs.

The prices come from Lagrangian duality (docs/policies.md, "prices"):

1. The GPUs of a job make other jobs wait. So the price of a GPU is proportional to the number of jobs that are at least
   as large as this job. The price of a joule is the energy price λ_E.
2. The worth ``v_j`` of an iteration of job j is the lowest cost of the iteration at these prices.
3. From this worth follows ``V_j(n)``, the gain of job j from n GPUs. Each GPU goes to the job whose gain rises most.

Clocks follow from the same prices: when a queue forms, an iteration is worth more, so that higher clocks are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.policy.expected_ranks import expected_ranks
from powerflow.policy.prices_kernel import allocate, gpu_seconds, ranks
from powerflow.policy.protocol import Allocation, View


@dataclass(slots=True)
class Prices:
    """Allocate GPUs by prices: jobs bid for GPUs with what their iterations are worth (docs/policies.md, "prices").

    Attributes:
        crowding: c_μ, the factor on the price that a GPU has because other jobs wait for it. It is above 1 because a
            used GPU also delays future jobs. The value 2 was best on five workloads at three energy prices; values near
            2 are nearly as good.
        name: The name of the policy, ``prices``.
        needs_sizes: False: the policy also works if it is not known how much work jobs have left.
        period_s: None: only events make a new decision necessary.
    """

    crowding: float = 2.0
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
        rank_and_slope = np.empty((2, count))
        rank_and_slope[0] = ranks_of(view)
        answer.worth = np.empty(count)
        price = allocate(
            jobs["remaining"],
            jobs["weight"],
            jobs["pause_s"],
            jobs["gpus"],
            jobs["gpus_min"],
            jobs["gpus_max"],
            jobs["cost"],
            jobs["listed"],
            view.gpu_counts,
            view.step_time_s,
            view.power_w,
            view.idle_w,
            view.capacity,
            view.energy_prices,
            self.crowding,
            view.sizes_known,
            answer.gpus,
            answer.clock,
            answer.worth,
            np.empty((count, len(view.gpu_counts))),
            np.empty((count, len(view.gpu_counts)), np.int64),
            rank_and_slope,
            np.empty((3, count), np.int64),
        )
        answer.gpu_price = float(price)
        return answer


def ranks_of(view: View) -> FloatArray:
    """Return the rank of each job: the (expected) summed weight of all jobs that are to be served no earlier.

    Weighted jobs are best served by ascending size / weight (Smith's rule), so that this is the order of ranks.
    """
    jobs = view.jobs
    size = sizes(view) / jobs["weight"]
    if (jobs["size_log_sd"] > 0.0).any():
        return expected_ranks(size, jobs["size_log_sd"], jobs["weight"])
    rank = np.empty(len(jobs))
    ranks(size, jobs["weight"], size.argsort(kind="stable"), rank)
    return rank


def sizes(view: View) -> FloatArray:
    """Return the remaining work of each job in GPU-seconds, known or expected.

    It is ``inf`` for a job that can run on no GPU count, or of whose size nothing at all is known.
    """
    jobs = view.jobs
    work = np.empty(len(jobs))
    gpu_seconds(jobs["remaining"], jobs["gpus_min"], jobs["cost"], view.gpu_counts, view.step_time_s, work)
    uncertain = jobs["size_log_sd"] > 0.0
    return np.where(uncertain, jobs["expected_gpu_s"], work) if uncertain.any() else work
