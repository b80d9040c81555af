"""A policy asked about some of the jobs and some of the GPUs: how rules keep what is promised out of its hands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from powerflow.arrays import IntArray
from powerflow.policy.protocol import Allocation, Policy, View


def decide_rest(policy: Policy, view: View, answer: Allocation, fixed: npt.NDArray[np.bool_]) -> Allocation:
    """The policy's answer for all jobs but the ``fixed`` ones, on the GPUs that these leave.

    Args:
        policy: Whom to ask.
        view: All jobs.
        answer: What the fixed jobs get; of the others nothing is read.
        fixed: ``[J]`` which these are.

    Returns:
        All jobs' allocation. The price of a GPU is that of the rest; the fixed jobs keep what ``answer`` says they are
        worth.
    """
    if fixed.all():
        return answer
    rest = ~fixed
    jobs = view.jobs[rest]
    jobs.flags.writeable = False
    free = view.capacity - int(answer.gpus[fixed].sum())
    part = policy.decide(replace(view, jobs=jobs, capacity=free))
    gpus, clock = answer.gpus.copy(), answer.clock.copy()
    gpus[rest], clock[rest] = part.gpus, part.clock
    worth = None
    if part.worth is not None:
        worth = np.zeros(len(gpus)) if answer.worth is None else answer.worth.copy()
        worth[rest] = part.worth
    return Allocation(gpus, clock, part.gpu_price, worth)


def first_that_fit(need: IntArray, order: IntArray, free: int) -> npt.NDArray[np.bool_]:
    """Which jobs get all they need, in turn, until one does not fit: nobody overtakes it. ``[J]``.

    A job that needs nothing (it cannot run) or more than all of ``free`` blocks nobody.
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
