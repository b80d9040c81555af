"""`prices`, the default: every GPU and every joule has a price, every job's iteration a worth.

Found by duality (design §5). A job's GPUs make the jobs behind it wait, so a GPU costs in proportion to how many jobs
are at least as large; a joule costs λ_E. At these prices an iteration of a job is worth what it takes to do it most
cheaply (``v_j``); what a job makes of n GPUs is then ``V_j(n)``, and the GPUs go where the next one adds most. Clocks
need no rule of their own: when a queue forms, worths rise and with them the clocks that pay.
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
    """Allocate by prices; see the module's text and `docs/policies.md`.

    Attributes:
        crowding: c_μ, how strongly the queue weighs in the price of a GPU. Above 1 because a GPU taken now also delays
            jobs that are yet to come. 2 was best on five workloads and three energy prices; the optimum is flat.
    """

    crowding: float = 2.0
    name: str = field(default="prices", init=False)
    needs_sizes: bool = field(default=False, init=False)
    period_s: float | None = field(default=None, init=False)
    # sizes seen, and what follows from them; worked out again only when they change
    _expected: tuple[FloatArray, FloatArray, FloatArray] | None = field(default=None, init=False, repr=False)

    def decide(self, view: View) -> Allocation:
        """Value every job at every count, then sell the GPUs to the steepest gains."""
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
        """What jobs are ranked by, ``[J]`` GPU-seconds: what is left, or what is to be expected."""
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
