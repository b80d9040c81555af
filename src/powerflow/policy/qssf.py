"""Provide QSSF: smallest predicted GPU time first, without preemption, with exactly the requested GPUs."""

from __future__ import annotations

import numpy as np

from powerflow.policy.levels import by_key, requested_gpus, requested_run_s, start_in_order
from powerflow.policy.protocol import Allocation, View


class Qssf:
    """Start the job with the smallest predicted GPU time (run time × GPUs) first; no job overtakes another job.

    Source: Hu et al., SC'21 (Helios). The paper predicts the GPU time from the history of similar jobs; here the
    scheduler's estimate of the job's size is used. All jobs run on their requested GPUs at the maximum clock. A job
    that requests more GPUs than are up is skipped.
    """

    name = "qssf"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Return an allocation: running jobs keep their GPUs, and waiting jobs start, smallest GPU time first.

        No more jobs start when too few GPUs are left for the next job.
        """
        allocation = view.nothing()
        need = requested_gpus(view)
        allocation.gpus = start_in_order(view, need, by_key(view, requested_run_s(view) * np.maximum(need, 1)))
        return allocation
