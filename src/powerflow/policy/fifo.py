"""Implement FIFO: first come, first served, with exactly the requested GPUs."""

from __future__ import annotations

import numpy as np

from powerflow.policy.levels import by_arrival, held_gpus, requested_gpus, take_until_blocked
from powerflow.policy.protocol import Allocation, View


class Fifo:
    """Policy that starts jobs strictly in order of submission, without preemption or backfilling, at the maximum clock.

    The baseline of the papers: a job at the head of the queue that does not fit blocks all jobs behind it. Only a job
    that
    requests more GPUs than are up at all (failed nodes) is skipped, because it could block the queue for ever.
    """

    name = "fifo"
    needs_sizes = False
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Keep running jobs; start waiting ones in order until one does not fit."""
        allocation = view.nothing()
        need = requested_gpus(view)
        held = held_gpus(view)
        order = by_arrival(view)
        queue = order[(held[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
        allocation.gpus = held + take_until_blocked(need, queue, view.capacity - int(np.sum(held)))
        return allocation
