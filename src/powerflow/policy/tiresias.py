"""Tiresias: least attained service in two dimensions (GPUs × time), in discrete queues, preemptive."""

from __future__ import annotations

import numpy as np

from powerflow.errors import InputError
from powerflow.policy.levels import requested_gpus, take_what_fits
from powerflow.policy.protocol import Allocation, View
from powerflow.units import HOUR_S

#: Two queues, which the paper finds enough; the limit between them, 16 GPU-hours, is that of Pollux's comparison.
DEFAULT_QUEUES_GPU_S = (16 * HOUR_S,)


class Tiresias:
    """Discretised 2D-LAS: a job sinks from queue to queue as its GPU-seconds pass the thresholds.

    Gu et al., NSDI'19, discretised 2D-LAS (Tiresias-L): sizes need not be known. Lower queues only get what higher
    ones leave; inside a queue the order is FIFO, which is what keeps equals from preempting each other. Jobs that do
    not fit are passed over. Gang, at the maximum clock, on the GPUs asked for.

    Args:
        queues: One threshold, or several ascending ones, in GPU-seconds: one more queue than thresholds.
        promote: PROMOTEKNOB: a job that has waited this many times as long as it has run so far comes back
            to the first queue; it keeps that rank until the run that follows has used the first threshold's worth.
            Infinite by default: nobody is promoted.
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
                f"queue thresholds {queues!r} do not ascend from above 0", fix="give GPU-seconds, 3600/36000"
            )
        if not promote > 0:
            raise InputError(
                f"promote {promote!r} is not above 0", fix="give waiting time over running time, or leave out"
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

    def _promoted(self, view: View) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Jobs that stand in the first queue because they starved. The view alone tells: nothing is remembered."""
        jobs = view.jobs
        if np.isinf(self.promote):
            return np.zeros(len(jobs), np.bool_)
        in_state_s = view.now_s - jobs["since_s"]
        ran_s = jobs["attained_gpu_s"] / np.maximum(jobs["requested"], 1)
        starved = (jobs["gpus"] == 0) & (ran_s > 0) & (in_state_s >= self.promote * ran_s)
        serving = (jobs["gpus"] > 0) & (in_state_s * jobs["gpus"] < self.queues[0])
        promoted: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = starved | serving
        return promoted
