"""SRTF: shortest remaining time first, preemptive, on exactly the GPUs asked for."""

from __future__ import annotations

from powerflow.policy.levels import by_key, requested_gpus, requested_run_s, take_what_fits
from powerflow.policy.protocol import Allocation, View


class Srtf:
    """Those that would end soonest on the GPUs they asked for run; a job that does not fit is passed over.

    Gang, at the maximum clock. Remaining time is the believed iterations × the believed step time.
    """

    name = "srtf"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Fill the GPUs in order of remaining time, whoever holds them now."""
        allocation = view.nothing()
        need = requested_gpus(view)
        order = by_key(view, requested_run_s(view))
        allocation.gpus = take_what_fits(need, order[need[order] > 0], view.capacity)
        return allocation
