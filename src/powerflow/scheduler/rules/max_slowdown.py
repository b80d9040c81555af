"""Limit how far a lower clock may slow a job down. The owner of the job sets this limit, ``max_slowdown``.

With a limit s, a step takes at most (1 + s) times as long as at the maximum clock on the same number of GPUs. If its
time was not measured, the longest possible time counts (`powerflow.cost.clock_choice`). Protected jobs have a
stronger promise, which depends on measured progress (`powerflow.scheduler.rules.protection`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.arrays import IntArray
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.wrapper import Wrapper


class MaxSlowdown(Wrapper):
    """Raise clocks that would slow jobs down more than their owners allow."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.name = f"{inner.name}+max_slowdown"

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer; a clock that slows a job down too much is replaced by an allowed clock."""
        answer = self.inner.decide(view)
        return replace(answer, clock=allowed_clocks(view, answer.gpus, answer.clock))


def allowed_clocks(view: View, gpus: IntArray, clock: IntArray) -> IntArray:
    """Return the lowest clocks, not below ``clock``, that slow no job down more than its owner allows.

    Args:
        view: All J jobs.
        gpus: ``[J]`` GPUs of each job; for a job with 0 the clock stays as it is.
        clock: ``[J]`` positions of the clocks that are wanted.
    """
    limited = np.flatnonzero((gpus > 0) & np.isfinite(view.jobs["slowdown"]))
    if not len(limited):
        return clock
    cells = view.jobs["cost"][limited], view.count_index[gpus[limited]]
    step_s = view.step_time_s[cells]
    most_s = (1.0 + view.jobs["slowdown"][limited]) * step_s[:, -1] * (1.0 + 1e-9)
    slowest_s = step_s if view.margin is None else step_s * view.margin[cells]
    allowed = slowest_s <= most_s[:, None]
    allowed[:, -1] = True  # the maximum clock is always allowed, even if a lower one is believed to be faster
    at_least = np.arange(len(view.clocks_mhz)) >= clock[limited, None]
    raised = clock.copy()
    raised[limited] = np.argmax(allowed & at_least, axis=1)
    return raised
