"""Jobs that cannot go on where they stopped: once they run they keep their GPUs, or all that they have done is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.partial import decide_rest
from powerflow.scheduler.rules.power_limit import added_w


class NoPreempt:
    """A policy that takes no GPU from a running job that would have to begin anew (`Job.keeps`).

    It may choose their clocks. Where it would stop one, that one stays as it is, at the lowest clock if it is budgets
    that leave it nothing, and the policy decides again for all others.

    Args:
        inner: Who decides.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = inner.name
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s

    def decide(self, view: View) -> Allocation:
        """As the inner policy says, but for those that it would stop."""
        answer, jobs = self.inner.decide(view), view.jobs
        held = jobs["gpus"].astype(np.int64)
        known = view.count_index[np.minimum(held, len(view.count_index) - 1)] >= 0
        keeps = jobs["keeps"] & (held > 0) & known
        if held[keeps].sum() > view.capacity:  # nodes have failed: somebody has to go
            return answer
        fixed = np.zeros(len(jobs), np.bool_)
        while (lost := keeps & ~fixed & (answer.gpus != held)).any():
            fixed |= lost
            clock = np.zeros_like(held) if view.limit_w else jobs["clock"].astype(np.int64)
            answer = replace(view.nothing(), gpus=np.where(fixed, held, 0), clock=clock)
            limit_w = {scope: max(0.0, watts - added_w(view, answer, scope)) for scope, watts in view.limit_w.items()}
            answer = decide_rest(self.inner, replace(view, limit_w=limit_w), answer, fixed)
        return answer
