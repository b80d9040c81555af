"""Provide Tiresias: jobs that have received the fewest GPU-seconds come first, in a few queues, with preemption."""

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
    """Serve jobs in several queues; a job moves to the next queue when its GPU-seconds pass a threshold.

    Source: Gu et al., NSDI'19, discretised 2D-LAS (Tiresias-L). Sizes of jobs need not be known. The first queue is
    served first; each further queue gets the GPUs that the queues before it leave. Inside a queue, running jobs are
    served before waiting jobs, as in the authors' simulator, so that jobs of one queue do not preempt each other. Then
    the order of submission counts. A job for which too few GPUs are left is skipped. All jobs run on their requested
    GPUs at the maximum clock.

    Args:
        queues: One threshold or several ascending thresholds, GPU-seconds. There is one more queue than thresholds.
        promote: PROMOTEKNOB of the paper, a ratio. A job whose waiting time divided by its run time reaches this ratio
            returns to the first queue. It stays there until its next run has used as many GPU-seconds as the first
            threshold. The default is infinite: no job returns.

    Raises:
        InputError: The thresholds are not positive and ascending, or ``promote`` is not positive.
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
                f"promote {promote!r} is not above 0", fix="give a ratio of waiting to running time, or nothing"
            )

    def decide(self, view: View) -> Allocation:
        """Return an allocation: GPUs are given out queue by queue, inside a queue first to running jobs."""
        allocation = view.nothing()
        jobs = view.jobs
        need = requested_gpus(view)
        queue = np.searchsorted(self.queues, jobs["attained_gpu_s"], side="right")
        queue[self._promoted(view)] = 0
        order = np.lexsort((jobs["id"], jobs["arrival_s"], jobs["gpus"] == 0, queue))
        allocation.gpus = take_what_fits(need, order[need[order] > 0], view.capacity)
        return allocation

    def _promoted(self, view: View) -> BoolArray:
        """Return which jobs have returned to the first queue because they waited for too long, ``[J]`` for J jobs."""
        jobs = view.jobs
        if np.isinf(self.promote):
            return np.zeros(len(jobs), np.bool_)
        in_state_s = view.now_s - jobs["since_s"]
        ran_s = jobs["attained_gpu_s"] / np.maximum(jobs["requested"], 1)
        starved = (jobs["gpus"] == 0) & (ran_s > 0) & (in_state_s >= self.promote * ran_s)
        serving = (jobs["gpus"] > 0) & (in_state_s * jobs["gpus"] < self.queues[0])
        promoted: BoolArray = starved | serving
        return promoted
