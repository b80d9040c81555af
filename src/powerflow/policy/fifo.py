"""Implement FIFO: first come, first served, with exactly the requested GPUs."""

from __future__ import annotations

from powerflow.policy.levels import by_arrival, requested_gpus, start_in_order
from powerflow.policy.protocol import Allocation, View


class Fifo:
    """Policy that starts jobs strictly in order of submission, without preemption or backfilling, at the maximum clock.

    The baseline of the papers: a job at the head of the queue that does not fit blocks all jobs behind it. Only a job
    that requests more GPUs than are up at all (failed nodes) is skipped, because it could block the queue for ever.
    """

    name = "fifo"
    needs_sizes = False
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Keep running jobs; start waiting ones in order until one does not fit."""
        allocation = view.nothing()
        allocation.gpus = start_in_order(view, requested_gpus(view), by_arrival(view))
        return allocation
