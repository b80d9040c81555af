"""Implement Optimus: each further GPU goes to the job whose remaining time it reduces most."""

from __future__ import annotations

import numpy as np

from powerflow.policy.levels import by_key, feasible, least_levels, step_times, take_what_fits
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.steepest import gpus_of, spend


class Optimus:
    """Policy that gives all jobs their fewest GPUs and the rest by marginal gain, at the maximum clock.

    Peng et al., EuroSys'18, resource allocation: gain = (remaining time now − remaining time with more) / GPUs added.
    The largest gain gets the GPUs, until no GPU or no gain is left. The paper allocates any number of parameter servers
    and workers; here the unit is a GPU, at the counts of the cost table, and a gain is per GPU. If there are more jobs
    than GPUs, those with the least remaining time start. Remaining time is estimated iterations × step time, instead of
    the paper's fit of the loss curve.
    """

    name = "optimus"
    needs_sizes = True
    period_s: float | None = 600.0

    def decide(self, view: View) -> Allocation:
        """Start as many jobs as possible on their fewest GPUs, then give out the rest by marginal gain."""
        allocation = view.nothing()
        jobs, counts = view.jobs, view.gpu_counts
        times = step_times(view)
        allowed = feasible(view, times)
        least = least_levels(allowed)
        rows = np.arange(len(jobs))
        remaining = np.where(np.isfinite(jobs["remaining"]), jobs["remaining"], 1.0)
        cost = remaining[:, None] * np.where(allowed, times, np.inf)
        order = by_key(view, cost[rows, least])
        started = take_what_fits(counts[least], order[least[order] >= 0], view.capacity)
        start = np.where(started > 0, least, -1).astype(np.int64)
        level = spend(cost, counts, start, view.capacity - int(started.sum()))
        allocation.gpus = gpus_of(level, counts)
        return allocation
