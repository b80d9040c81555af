"""`prices`, the default: every GPU and every joule has a price, every job's iteration a worth.

Found by duality (design §5). A job's GPUs make the jobs behind it wait, so a GPU costs in proportion to how many jobs
are at least as large; a joule costs λ_E. At these prices an iteration of a job is worth what it takes to do it most
cheaply (``v_j``); what a job makes of n GPUs is then ``V_j(n)``, and the GPUs go where the next one adds most. Clocks
need no rule of their own: when a queue forms, worths rise and with them the clocks that pay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from powerflow.cost.table import FloatArray
from powerflow.policy.prices_kernel import allocate, known_sizes
from powerflow.policy.protocol import Allocation, View


@dataclass(slots=True)
class Prices:
    """Allocate by prices; see the module's text and `docs/policies.md`.

    Attributes:
        crowding: c_μ, how strongly the queue weighs in the price of a GPU. 0.7 was best on held-out traces (design §5).
    """

    crowding: float = 2.0
    name: str = "prices"
    needs_sizes: bool = False
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Value every job at every count, then sell the GPUs to the steepest gains."""
        answer = view.nothing()
        jobs = view.jobs
        if len(jobs) == 0 or view.capacity == 0:
            return answer
        worth = np.empty(len(jobs))
        answer.gpu_price = allocate(
            job_sizes(view),
            jobs["remaining"],
            jobs["weight"],
            jobs["pause_s"],
            jobs["gpus"],
            jobs["gpus_min"],
            jobs["gpus_max"],
            jobs["cost"],
            view.gpu_counts,
            view.step_time_s,
            view.power_w,
            view.idle_w,
            view.capacity,
            view.energy_price,
            self.crowding,
            view.sizes_known,
            answer.gpus,
            answer.clock,
            worth,
        )
        answer.worth = worth
        return answer


def job_sizes(view: View) -> FloatArray:
    """What jobs are ranked by, ``[J]``; only the order counts.

    Known sizes: GPU-seconds left on the fewest GPUs at the maximum clock. Unknown: the discretised attained service
    of Tiresias (NSDI'19), ⌊log4(GPU-hours)⌋, and within it the arrival.
    """
    jobs = view.jobs
    if view.sizes_known:
        return known_sizes(jobs["remaining"], jobs["gpus_min"], jobs["cost"], view.gpu_counts, view.step_time_s)
    queue = np.floor(np.log(np.maximum(jobs["attained_gpu_s"], 1e-9) / 3600.0) / np.log(4.0))
    sizes = np.empty(len(jobs))
    sizes[np.lexsort((jobs["id"], queue))] = np.arange(len(jobs))
    return sizes
