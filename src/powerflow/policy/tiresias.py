"""Implement Tiresias: least attained service in two dimensions (GPUs × time), in queues, with preemption."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import BoolArray
from powerflow.errors import InputError
from powerflow.policy.levels import requested_gpus, take_what_fits
from powerflow.policy.protocol import Allocation, View
from powerflow.units import HOUR_S

#: Limit between two queues (the paper finds two enough): 16 GPU-hours, as in Pollux' comparison.
DEFAULT_QUEUES_GPU_S = (16 * HOUR_S,)


class Tiresias:
    """Policy with several queues: a job moves to the next queue when its GPU-seconds pass a threshold.

    Gu et al., NSDI'19, discretised 2D-LAS (Tiresias-L). Sizes need not be known. Lower queues get the GPUs that higher
    ones leave. Inside a queue the order is FIFO, so that equal jobs do not preempt each other. Jobs that do not fit are
    skipped. Requested GPUs, maximum clock.

    Args:
        queues: One threshold or several ascending ones, in GPU-seconds. There is one more queue than thresholds.
        promote: PROMOTEKNOB of the paper: a job that has waited this many times as long as it has run returns to the
            first queue, and stays there until its next run has used the GPU-seconds of the first threshold. Infinite by
            default: no promotion.
    """

    needs_sizes = False
    period_s: float | None = 60.0

    def __init__(self, queues: float | tuple[float, ...] = DEFAULT_QUEUES_GPU_S, promote: float = float("inf")) -> None:
        self.queues = np.atleast_1d(np.array(queues, float))
        self.promote = promote
        self.name = "tiresias"
        if (queues, promote) != (DEFAULT_QUEUES_GPU_S, float("inf")):
            self.name += f":queues={'/'.join(f'{limit:g}' for limit in self.queues)},promote={promote:g}"
        if not (np.all(self.queues > 0) and np.all(np.diff(self.queues) > 0)):
            raise InputError(
                f"queue thresholds {queues!r} are not above 0 and ascending", fix="give GPU-seconds, such as 3600/36000"
            )
        if not promote > 0:
            raise InputError(
                f"promote {promote!r} is not above 0", fix="give waiting time over running time, or leave it out"
            )

    def decide(self, view: View) -> Allocation:
        """Fill the GPUs queue by queue, in order of submission inside each."""
        allocation = view.nothing()
        jobs = view.jobs
        need = requested_gpus(view)
        queue = np.searchsorted(self.queues, jobs["attained_gpu_s"], side="right")
        queue[self._promoted(view)] = 0
        order = np.lexsort((jobs["id"], jobs["arrival_s"], queue))
        allocation.gpus = take_what_fits(need, order[need[order] > 0], view.capacity)
        return allocation

    def _promoted(self, view: View) -> BoolArray:
        """Return a mask of the jobs promoted to the first queue because they starved; computed from the view alone."""
        jobs = view.jobs
        if np.isinf(self.promote):
            return np.zeros(len(jobs), np.bool_)
        in_state_s = view.now_s - jobs["since_s"]
        ran_s = jobs["attained_gpu_s"] / np.maximum(jobs["requested"], 1)
        starved = (jobs["gpus"] == 0) & (ran_s > 0) & (in_state_s >= self.promote * ran_s)
        serving = (jobs["gpus"] > 0) & (in_state_s * jobs["gpus"] < self.queues[0])
        promoted: BoolArray = starved | serving
        return promoted
