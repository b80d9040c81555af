"""A policy of one's own: everybody gets the same share of the GPUs."""

import numpy as np

from powerflow.policy.protocol import Allocation, View


class EqualShare:
    """Each job gets the largest count it can use within its share; who came first gets it first."""

    name = "equal-share"
    needs_sizes = False
    period_s = None

    def decide(self, view: View) -> Allocation:
        """Hand out equal shares while they last."""
        allocation = view.nothing()
        jobs, counts = view.jobs, view.gpu_counts
        share = max(view.capacity // max(len(jobs), 1), 1)
        can_run = np.isfinite(view.step_time_s[:, :, view.clock_max])[jobs["cost"]]
        wanted = (counts >= jobs["gpus_min"][:, None]) & (counts <= jobs["gpus_max"][:, None]) & (counts <= share)
        gpus = np.max(np.where(can_run & wanted, counts, 0), axis=1, initial=0)
        allocation.gpus = np.where(np.cumsum(gpus) <= view.capacity, gpus, 0)
        return allocation
