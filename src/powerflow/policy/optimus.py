"""Provide Optimus: each further GPU goes to the job whose remaining time it reduces most."""

from __future__ import annotations

import numpy as np

from powerflow.policy.levels import by_key, feasible, least_levels, step_times, take_what_fits
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.steepest import gpus_of, spend


class Optimus:
    """Give all jobs their fewest GPUs, then give each further GPU to the job whose remaining time it reduces most.

    Source: Peng et al., EuroSys'18, resource allocation. The gain of a job is (its remaining time now − its remaining
    time with more GPUs) / number of GPUs added. The job with the largest gain gets the GPUs, until no GPU is left or no
    job gains. If there are more jobs than GPUs, the jobs with the least remaining time start. All jobs run at the
    maximum clock.

    The paper allocates any number of parameter servers and workers. Here the unit is a GPU, and a job has one of the
    GPU counts of its cost table. The remaining time is remaining iterations × step time; the paper fits the loss curve
    instead.
    """

    name = "optimus"
    needs_sizes = True
    period_s: float | None = 600.0

    def decide(self, view: View) -> Allocation:
        """Return an allocation: jobs start on their fewest GPUs; each further GPU goes where it saves the most time."""
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
