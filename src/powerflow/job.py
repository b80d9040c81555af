"""A training job as its owner submits it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from powerflow.errors import InputError


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained, how much of it, and on how many GPUs it may run.

    Attributes:
        id: The name the job is known by; unique while it is active.
        submit_s: When it was submitted, seconds on the clock of whoever runs the scheduler.
        cost_class: Which cost table describes it: jobs of one class cost the same per iteration.
        iterations: Work, in iterations at the job's global batch; the truth, which a scheduler may not know.
        gpus: GPUs its owner asked for. Rigid policies give exactly this many.
        gpus_min: Fewest GPUs it can run on.
        gpus_max: Most GPUs it can use.
        gpus_allowed: The only counts it can run on, ascending, from ``gpus_min`` to ``gpus_max``; None: all between.
        weight: Priority as a weight in the mean; 1 is normal, larger matters more.
        project: Whose job it is, for accounting and fairness.
        gpu_type: The only GPU type it may run on, or None for any.
        protected: What is promised to it holds in every plan: it starts at once, and see ``max_slowdown``.
        max_slowdown: By how much it may be slowed, as a share: 0.1 is 10 %. Of a protected job, how much longer its JCT
            may be than alone as submitted; of any other, how much longer a step may take than at the maximum clock.
        keeps: Once it runs it keeps its GPUs to its end: it cannot go on where it stopped.

    Raises:
        InputError: A slowdown is negative or not a number; or the counts are none, not ascending, or not from
            ``gpus_min`` to ``gpus_max``.
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
    gpus_allowed: tuple[int, ...] | None = None

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
        """Whether the job may run on so many GPUs."""
        if self.gpus_allowed is not None:
            return gpus in self.gpus_allowed
        return self.gpus_min <= gpus <= self.gpus_max
