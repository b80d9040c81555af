"""Provide SRTF: shortest remaining time first, with preemption, on exactly the requested GPUs."""

from __future__ import annotations

from powerflow.policy.levels import by_key, requested_gpus, requested_run_s, take_what_fits
from powerflow.policy.protocol import Allocation, View


class Srtf:
    """Run the jobs with the shortest remaining time first; a job for which too few GPUs are left is skipped.

    All jobs run on their requested GPUs at the maximum clock. The remaining time is estimated: remaining iterations ×
    step time.
    """

    name = "srtf"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Return an allocation: jobs get GPUs in order of remaining time; a running job may lose its GPUs."""
        allocation = view.nothing()
        need = requested_gpus(view)
        order = by_key(view, requested_run_s(view))
        allocation.gpus = take_what_fits(need, order[need[order] > 0], view.capacity)
        return allocation
