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
from powerflow.policy.gittins import effective_sizes
from powerflow.policy.prices_kernel import allocate, gpu_seconds
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
    # sizes seen, work levels and effective sizes; computed again only when the sizes change
    _expected: tuple[FloatArray, FloatArray, FloatArray] | None = field(default=None, init=False, repr=False)

    def decide(self, view: View) -> Allocation:
        """Return an allocation: each GPU goes to the job that gains most by it, at the prices of GPUs and energy."""
        answer = view.nothing()
        jobs = view.jobs
        if len(jobs) == 0 or view.capacity == 0:
            return answer
        # weighted jobs are best served by ascending size / weight (Smith's rule), so that this is the order of ranks
        count, size = len(jobs), self.sizes(view) / jobs["weight"]
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
        """Return the remaining work of each job in GPU-seconds, known or expected, by which jobs are ranked.

        It is ``inf`` for a job that can run on no GPU count. If sizes are unknown, the expected work depends on the
        work done so far and on the sizes of completed jobs (`gittins.effective_sizes`).
        """
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
