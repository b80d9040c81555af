"""Ask a policy about some jobs and GPUs only, so that it cannot change what a rule has promised to other jobs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.policy.protocol import Allocation, Policy, View


def decide_rest(policy: Policy, view: View, answer: Allocation, fixed: BoolArray) -> Allocation:
    """Ask a policy about the jobs whose allocation is not fixed yet, on the GPUs that the fixed jobs leave.

    Args:
        policy: The policy to ask.
        view: All J jobs.
        answer: The allocation of the fixed jobs; its entries for other jobs are not used.
        fixed: ``[J]`` True if the job is fixed.

    Returns:
        The allocation of all jobs. Its GPU price is the price that the policy gives for the jobs that are not fixed.
        The fixed jobs keep the worth of an iteration from ``answer``.
    """
    if fixed.all():
        return answer
    rest = ~fixed
    free = view.capacity - int(answer.gpus[fixed].sum())
    part = policy.decide(replace(view.of_jobs(rest), capacity=free))
    gpus, clock = answer.gpus.copy(), answer.clock.copy()
    gpus[rest], clock[rest] = part.gpus, part.clock
    worth = None
    if part.worth is not None:
        worth = np.zeros(len(gpus)) if answer.worth is None else answer.worth.copy()
        worth[rest] = part.worth
    return Allocation(gpus, clock, part.gpu_price, worth)


def first_that_fit(need: IntArray, order: IntArray, free: int) -> BoolArray:
    """Give jobs the GPUs that they need, one after the other, until the GPUs that are left are too few for a job.

    Args:
        need: ``[J]`` GPUs that each of J jobs needs. A job is skipped if it needs 0 (it cannot run) or more than
            ``free``.
        order: Rows of the jobs to serve, first to last. After the first job for which too few GPUs are left, no job is
            served.
        free: How many GPUs there are in all.

    Returns:
        ``[J]`` True if the job gets its GPUs.
    """
    fits = np.zeros(len(need), np.bool_)
    left = free
    for row in order.tolist():
        if not 0 < need[row] <= free:
            continue
        if need[row] > left:
            break
        fits[row] = True
        left -= int(need[row])
    return fits
