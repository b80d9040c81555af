"""Ask a policy about some of the jobs and GPUs only, so that it cannot change what a rule has promised to others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.policy.protocol import Allocation, Policy, View


def decide_rest(policy: Policy, view: View, answer: Allocation, fixed: BoolArray) -> Allocation:
    """Ask the policy about all jobs that are not fixed, with the GPUs that the fixed ones leave.

    Args:
        policy: The policy to ask.
        view: All jobs.
        answer: The allocation of the fixed jobs; its other entries are not used.
        fixed: ``[J]`` which jobs are fixed.

    Returns:
        The allocation of all jobs. The GPU price is the one that the policy sets for the rest; the fixed jobs keep
        their worth from ``answer``.
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
    """Serve jobs in order until one does not fit, and return which ones were served, ``[J]``.

    Args:
        need: ``[J]`` GPUs of each job. A job that needs 0 (it cannot run) or more than ``free`` is passed over.
        order: Positions of the jobs to serve, first to last. No job overtakes one that does not fit.
        free: GPUs to give out.
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
