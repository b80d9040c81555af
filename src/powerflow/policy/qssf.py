"""Implement QSSF: quasi-shortest service first, without preemption, with exactly the requested GPUs."""

from __future__ import annotations

import numpy as np

from powerflow.policy.levels import by_key, requested_gpus, requested_run_s, start_in_order
from powerflow.policy.protocol import Allocation, View


class Qssf:
    """Policy that starts the job with the smallest predicted GPU time (duration × GPUs) first, without backfilling.

    Hu et al., SC'21 (Helios). The paper predicts from the history of similar jobs; here the scheduler's estimate of the
    job's size is used. Clock: maximum. A job that requests more GPUs than are up is skipped.
    """

    name = "qssf"
    needs_sizes = True
    period_s: float | None = None

    def decide(self, view: View) -> Allocation:
        """Keep running jobs; start waiting ones by predicted GPU time until one does not fit."""
        allocation = view.nothing()
        need = requested_gpus(view)
        allocation.gpus = start_in_order(view, need, by_key(view, requested_run_s(view) * np.maximum(need, 1)))
        return allocation
