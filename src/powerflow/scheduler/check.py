"""Check that the allocation that a policy returns can be carried out."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.kernel import kernel
from powerflow.policy.protocol import Allocation, View

TOO_MANY, UNKNOWN_COUNT, UNKNOWN_CLOCK, CANNOT_RUN = 1, 2, 3, 4


class PolicyError(RuntimeError):
    """Error: a policy returned an allocation that cannot be carried out."""


def check_answer(policy: str, view: View, answer: Allocation) -> None:
    """Check that the allocation that a policy returned can be carried out.

    Args:
        policy: Name of the policy, for the error message.
        view: The `View` that the policy was given.
        answer: The allocation that the policy returned.

    Raises:
        PolicyError: The allocation cannot be carried out. The message names the policy, the fault and the first job
            with this fault.
    """
    jobs, gpus, clock = view.jobs, answer.gpus, answer.clock
    if not gpus.shape == clock.shape == jobs.shape:
        shapes = f"{gpus.shape} GPUs and {clock.shape} clocks"
        raise PolicyError(f"policy {policy}: answered with {shapes} for {len(jobs)} jobs")
    if gpus.dtype.kind not in "iu" or clock.dtype.kind not in "iu":
        kinds = f"{gpus.dtype} GPUs and {clock.dtype} clocks"
        raise PolicyError(f"policy {policy}: answered with {kinds}; both are whole numbers")
    fault, j = _fault(
        jobs["gpus_min"],
        jobs["gpus_max"],
        jobs["cost"],
        jobs["gpus"],
        jobs["unmanaged"],
        jobs["keeps"],
        gpus,
        clock,
        view.count_index,
        view.step_time_s,
        view.capacity,
    )
    match fault:
        case 0:
            return
        case 1:
            what = f"gave out {int(gpus.sum())} GPUs of {view.capacity}"
        case 2:
            what = f"gave job {jobs['id'][j]} {gpus[j]} GPUs, a count that is not in the cost tables"
        case 3:
            what = f"gave job {jobs['id'][j]} clock {clock[j]} of {len(view.clocks_mhz)}"
        case _:
            limits = f"its limits are {jobs['gpus_min'][j]} to {jobs['gpus_max'][j]}"
            what = f"gave job {jobs['id'][j]} {gpus[j]} GPUs, on which it cannot run ({limits})"
    raise PolicyError(f"policy {policy}: {what}")


@kernel
def _fault(
    gpus_min: IntArray,
    gpus_max: IntArray,
    cost: IntArray,
    held: IntArray,
    unmanaged: BoolArray,
    keeps: BoolArray,
    gpus: IntArray,
    clock: IntArray,
    count_index: IntArray,
    step_time_s: FloatArray,
    capacity: int,
) -> tuple[int, int]:
    """Return the number of an allocation's first fault, and the row of the job with this fault.

    The number is 0 if the allocation has no fault. If an unmanaged job, or a job with ``keeps``, stays on the GPUs that
    it holds, it is not checked whether the cost tables say that it can run on them.
    """
    total = 0
    for j in range(len(gpus)):
        n = gpus[j]
        if n == 0:
            continue
        if n < 0 or n >= len(count_index) or count_index[n] < 0:
            return UNKNOWN_COUNT, j
        if clock[j] < 0 or clock[j] >= step_time_s.shape[2]:
            return UNKNOWN_CLOCK, j
        runs = gpus_min[j] <= n <= gpus_max[j] and np.isfinite(step_time_s[cost[j], count_index[n], clock[j]])
        stays = (unmanaged[j] or keeps[j]) and n == held[j]
        if not runs and not stays:
            return CANNOT_RUN, j
        total += n
    return (TOO_MANY if total > capacity else 0), 0
