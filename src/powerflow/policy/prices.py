"""Implement `prices`, the default policy: GPUs and energy have prices, and each job bids for its GPUs.

The prices come from Lagrangian duality (docs/policies.md, "prices"):

1. A job's GPUs make other jobs wait, so a GPU costs in proportion to the number of jobs that are at least as large. A
   joule costs λ_E.
2. The worth ``v_j`` of an iteration of job j is the least that it costs at these prices.
3. ``V_j(n)`` is then what the job gains from n GPUs. GPUs go where the next one adds most.

Clocks need no extra rule: when a queue forms, worths rise, and higher clocks become profitable.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.policy.gittins import effective_sizes
from powerflow.policy.prices_kernel import allocate, gpu_seconds
from powerflow.policy.protocol import Allocation, View


@dataclass(slots=True)
class Prices:
    """Policy that allocates GPUs by prices; docs/policies.md describes the algorithm.

    Attributes:
        crowding: c_μ, weight of the queue in the price of a GPU. It is above 1 because a GPU used now also delays
            future jobs. 2 was best on five workloads at three energy prices; the optimum is flat.
    """

    crowding: float = 2.0
    name: str = field(default="prices", init=False)
    needs_sizes: bool = field(default=False, init=False)
    period_s: float | None = field(default=None, init=False)
    # sizes seen, work levels and effective sizes; computed again only when the sizes change
    _expected: tuple[FloatArray, FloatArray, FloatArray] | None = field(default=None, init=False, repr=False)

    def decide(self, view: View) -> Allocation:
        """Compute the value of every GPU count for every job, then give the GPUs to the steepest gains."""
        answer = view.nothing()
        jobs = view.jobs
        if len(jobs) == 0 or view.capacity == 0:
            return answer
        count, size = len(jobs), self.sizes(view)
        answer.worth = np.empty(count)
        price = allocate(
            size,
            size.argsort(kind="stable"),
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
            np.empty((2, count)),
            np.empty((3, count), np.int64),
        )
        answer.gpu_price = float(price)
        return answer

    def sizes(self, view: View) -> FloatArray:
        """Return the sizes in GPU-seconds by which jobs are ranked: the remaining work, known or expected."""
        jobs = view.jobs
        column = "remaining" if view.sizes_known else "done"
        work = np.empty(len(jobs))
        gpu_seconds(jobs[column], jobs["gpus_min"], jobs["cost"], view.gpu_counts, view.step_time_s, work)
        if view.sizes_known:
            return work
        if self._expected is None or self._expected[0] is not view.seen_gpu_s:
            self._expected = (view.seen_gpu_s, *effective_sizes(view.seen_gpu_s))
        _, levels, sizes = self._expected
        reached = np.searchsorted(levels, np.where(np.isfinite(work), work, 0.0), side="right") - 1
        return np.where(np.isfinite(work), sizes[reached], np.inf)
