"""Limit how far a job's clock may slow it down, as its owner asks with ``max_slowdown``.

The limit uses believed step times: on the same number of GPUs, a step takes at most (1 + s) times as long as at the
maximum clock. Protected jobs get a stronger promise, kept by measuring (`powerflow.scheduler.rules.protection`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.wrapper import Wrapper


class MaxSlowdown(Wrapper):
    """A policy that raises the clocks of jobs that would be slowed by more than their owners allow."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.name = f"{inner.name}+max_slowdown"

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer; where a clock is too low, it is replaced by the lowest allowed one."""
        answer = self.inner.decide(view)
        limited = np.flatnonzero((answer.gpus > 0) & np.isfinite(view.jobs["slowdown"]))
        if not len(limited):
            return answer
        step_s = view.step_time_s[view.jobs["cost"][limited], view.count_index[answer.gpus[limited]]]
        most_s = (1.0 + view.jobs["slowdown"][limited]) * step_s[:, -1] * (1.0 + 1e-9)
        allowed = step_s <= most_s[:, None]
        allowed[:, -1] = True  # the maximum clock is always allowed, even if a lower one is believed to be faster
        at_least = np.arange(len(view.clocks_mhz)) >= answer.clock[limited, None]
        clock = answer.clock.copy()
        clock[limited] = np.argmax(allowed & at_least, axis=1)
        return replace(answer, clock=clock)
