"""Provide FIFO: first come, first served, with exactly the requested GPUs."""

from __future__ import annotations

from powerflow.policy.levels import by_arrival, requested_gpus, start_in_order
from powerflow.policy.protocol import Allocation, View


class Fifo:
    """Start jobs strictly in order of submission, at the maximum clock. No job is preempted or overtakes another job.

    This is the baseline of the papers: if the first job of the queue does not fit on the free GPUs, all jobs behind it
    wait. Only a job that requests more GPUs than are up (because nodes have failed) is skipped, since it could block
    the queue for ever.
    """

    name = "fifo"
    needs_sizes = False
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Return an allocation: running jobs keep their GPUs; waiting jobs start in order until a job does not fit."""
        allocation = view.nothing()
        allocation.gpus = start_in_order(view, requested_gpus(view), by_arrival(view))
        return allocation
