"""Jobs that say how much slower they may become to save energy get no clock that slows them more than that.

A bound on the clock, by what is believed: at the same count of GPUs, a step takes at most (1 + s) times what it takes
at the maximum clock. What a protected job is promised is more than that, and is kept by measuring (`protect`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.policy.protocol import Allocation, Policy, View


class MaxSlowdown:
    """Any policy, with clocks raised to where jobs are slowed no more than they may be.

    Args:
        inner: The policy.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = f"{inner.name}+bounded"
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s

    def decide(self, view: View) -> Allocation:
        """The inner policy's answer; where its clock is too low for a job, the lowest that is not."""
        answer = self.inner.decide(view)
        bound = np.flatnonzero((answer.gpus > 0) & np.isfinite(view.jobs["slowdown"]))
        if not len(bound):
            return answer
        step_s = view.step_time_s[view.jobs["cost"][bound], view.count_index[answer.gpus[bound]]]
        most_s = (1.0 + view.jobs["slowdown"][bound]) * step_s[:, -1] * (1.0 + 1e-9)
        allowed = step_s <= most_s[:, None]  # always at the maximum clock; times need not fall with the clock
        allowed[:, -1] = True
        at_least = np.arange(len(view.clocks_mhz)) >= answer.clock[bound, None]
        clock = answer.clock.copy()
        clock[bound] = np.argmax(allowed & at_least, axis=1)
        return replace(answer, clock=clock)
