"""Describe a training job as its owner submits it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from powerflow.errors import InputError


@dataclass(frozen=True, slots=True)
class Job:
    """Training job as its owner submits it: its work, the GPU counts that it can use, and its limits.

    Attributes:
        id: Name of the job, unique among active jobs.
        submit_s: Submission time, in seconds on the clock of the simulator or controller.
        cost_class: Name of the job's class. Jobs of one class take the same time and energy per iteration.
        iterations: True work of the job, in iterations at its global batch. The scheduler may not know this number.
        gpus: Requested number of GPUs. Rigid policies give exactly this number.
        gpus_min: Smallest number of GPUs on which the job can run.
        gpus_max: Largest number of GPUs that the job can use.
        gpus_allowed: The only GPU counts on which the job can run, ascending, from ``gpus_min`` to ``gpus_max``. None
            allows every count between these two.
        weight: Priority, as weight in the mean completion time. 1 is normal; a larger weight is more important.
        project: Project that the job is charged to.
        gpu_type: The only GPU type on which the job may run, or None for any type.
        protected: True if every plan must keep the job's guarantees: it starts at once and respects ``max_slowdown``.
        max_slowdown: Largest allowed slowdown, as a share: 0.1 is 10 %. For a protected job, it limits the completion
            time compared with running alone as submitted. For any other job, it limits the step time compared with that
            at the maximum clock.
        name: Name that its owner gave it; "" if none. Jobs with the same name are similar.
        given: True if another scheduler starts and ends the job, and gives it its GPUs. No plan can stop or move it.
        keeps: True if the job, once started, must keep its GPUs until it ends, because it cannot resume after a stop.

    Raises:
        InputError: The slowdown is negative or not a number, or ``gpus_allowed`` is empty, not ascending, or does not
            go from ``gpus_min`` to ``gpus_max``.
    """

    id: str
    submit_s: float
    cost_class: str
    iterations: float
    gpus: int
    gpus_min: int = 1
    gpus_max: int = 1
    weight: float = 1.0
    project: str = ""
    gpu_type: str | None = None
    protected: bool = False
    max_slowdown: float = math.inf
    keeps: bool = False
    given: bool = False
    gpus_allowed: tuple[int, ...] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.max_slowdown >= 0:
            raise InputError(
                f"slowdown {self.max_slowdown!r} is not a share",
                where=f"job {self.id}",
                fix="give 0 or more: 0.1 is 10 %",
            )
        counts = self.gpus_allowed
        if counts is not None:
            ends = counts[:1] + counts[-1:]
            if ends != (self.gpus_min, self.gpus_max) or list(counts) != sorted(set(counts)):
                raise InputError(
                    f"GPU counts {counts} do not go from {self.gpus_min} up to {self.gpus_max}", where=f"job {self.id}"
                )

    def runs_on(self, gpus: int) -> bool:
        """Return True if the job can run on this number of GPUs."""
        if self.gpus_allowed is not None:
            return gpus in self.gpus_allowed
        return self.gpus_min <= gpus <= self.gpus_max
