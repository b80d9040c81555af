"""QSSF: quasi-shortest service first, non-preemptive, on exactly the GPUs asked for."""

from __future__ import annotations

import numpy as np

from powerflow.policy.levels import by_key, held_gpus, requested_gpus, requested_run_s, take_until_blocked
from powerflow.policy.protocol import Allocation, View


class Qssf:
    """The queue by predicted GPU time (duration × GPUs), smallest first; the head of the queue blocks.

    Hu et al., SC'21 (Helios). Their prediction comes from the history of similar jobs; ours is what the scheduler
    believes of the job's size. Gang, at the maximum clock. A job that asks for more than is up stands aside.
    """

    name = "qssf"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Let running jobs run; start waiting ones by predicted GPU time until one does not fit."""
        allocation = view.nothing()
        need = requested_gpus(view)
        held = held_gpus(view)
        order = by_key(view, requested_run_s(view) * np.maximum(need, 1))
        queue = order[(held[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
        allocation.gpus = held + take_until_blocked(need, queue, view.capacity - int(np.sum(held)))
        return allocation
