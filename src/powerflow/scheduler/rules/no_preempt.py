"""Keep the GPUs of running jobs that cannot resume from where they stop: preempted, they would lose all their work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.policy.protocol import Allocation, View
from powerflow.scheduler.rules.partial import decide_rest
from powerflow.scheduler.rules.power_limit import limits_left
from powerflow.scheduler.rules.wrapper import Wrapper


class NoPreempt(Wrapper):
    """A policy that never changes the GPUs of a running job with `Job.keeps`; it may change the clock.

    Where the inner policy would stop or resize such a job, the job keeps its GPUs, and the inner policy decides again
    about the others. If energy budgets set a limit in watts, the job then runs at the lowest clock.
    """

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer, corrected for these jobs."""
        answer, jobs = self.inner.decide(view), view.jobs
        held = jobs["gpus"].astype(np.int64)
        known = view.count_index[np.minimum(held, len(view.count_index) - 1)] >= 0
        keeps = jobs["keeps"] & (held > 0) & known
        if held[keeps].sum() > view.capacity:  # nodes have failed, so that not all of them can keep their GPUs
            return answer
        fixed = np.zeros(len(jobs), np.bool_)
        while (lost := keeps & ~fixed & (answer.gpus != held)).any():
            fixed |= lost
            clock = np.zeros_like(held) if view.limit_w else jobs["clock"].astype(np.int64)
            answer = replace(view.nothing(), gpus=np.where(fixed, held, 0), clock=clock)
            answer = decide_rest(self.inner, replace(view, limit_w=limits_left(view, answer)), answer, fixed)
        return answer
