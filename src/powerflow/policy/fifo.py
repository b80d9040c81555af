"""FIFO: first come, first served, on exactly the GPUs asked for."""

from __future__ import annotations

import numpy as np

from powerflow.policy.levels import by_arrival, held_gpus, requested_gpus, take_until_blocked
from powerflow.policy.protocol import Allocation, View


class Fifo:
    """Strict order of submission, gang, non-preemptive, maximum clock, no backfilling.

    The baseline of the papers: a job at the head of the queue that does not fit blocks those behind it. Only a job
    that asks for more than is up at all (nodes failed) stands aside, since it may wait for ever.
    """

    name = "fifo"
    needs_sizes = False
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Let running jobs run; start waiting ones in order until one does not fit."""
        allocation = view.nothing()
        need = requested_gpus(view)
        held = held_gpus(view)
        order = by_arrival(view)
        queue = order[(held[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
        allocation.gpus = held + take_until_blocked(need, queue, view.capacity - int(np.sum(held)))
        return allocation
