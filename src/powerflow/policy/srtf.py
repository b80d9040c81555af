"""Implement SRTF: shortest remaining time first, with preemption, on exactly the requested GPUs."""

from __future__ import annotations

from powerflow.policy.levels import by_key, requested_gpus, requested_run_s, take_what_fits
from powerflow.policy.protocol import Allocation, View


class Srtf:
    """Policy that runs the jobs with the shortest remaining time first; a job that does not fit is skipped.

    Clock: maximum. Remaining time is estimated iterations × estimated step time.
    """

    name = "srtf"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Fill the GPUs in order of remaining time, regardless of the present owners."""
        allocation = view.nothing()
        need = requested_gpus(view)
        order = by_key(view, requested_run_s(view))
        allocation.gpus = take_what_fits(need, order[need[order] > 0], view.capacity)
        return allocation
