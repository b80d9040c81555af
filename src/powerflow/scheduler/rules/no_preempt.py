"""Let running jobs keep their GPUs if they cannot resume after a stop, because a stop would lose all their work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.policy.protocol import Allocation, View
from powerflow.scheduler.rules.max_slowdown import allowed_clocks
from powerflow.scheduler.rules.partial import decide_rest
from powerflow.scheduler.rules.power_limit import limits_left
from powerflow.scheduler.rules.wrapper import Wrapper


class NoPreempt(Wrapper):
    """Keep a policy from changing the GPUs of running jobs that cannot resume after a stop (`Job.keeps`).

    If the inner policy would stop such a job or change its GPU count, the job keeps its GPUs, and the inner policy
    decides again about the other jobs. If an energy budget limits watts, this job runs at the lowest clock; otherwise
    it keeps its clock, or gets the next one that its owner's ``max_slowdown`` allows. Where the inner policy leaves the
    GPUs as they are, it may change the clock.
    """

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer, changed so that running jobs which cannot resume keep their GPUs."""
        answer, jobs = self.inner.decide(view), view.jobs
        held = jobs["gpus"].astype(np.int64)
        known = view.count_index[np.minimum(held, len(view.count_index) - 1)] >= 0
        keeps = jobs["keeps"] & (held > 0) & known
        if held[keeps].sum() > view.capacity:  # nodes have failed, so that not all of them can keep their GPUs
            return answer
        fixed = np.zeros(len(jobs), np.bool_)
        while (lost := keeps & ~fixed & (answer.gpus != held)).any():
            fixed |= lost
            gpus, clock = np.where(fixed, held, 0), np.zeros_like(held)
            if not view.limit_w:
                clock = allowed_clocks(view, gpus, jobs["clock"].astype(np.int64))
            answer = replace(view.nothing(), gpus=gpus, clock=clock)
            answer = decide_rest(self.inner, replace(view, limit_w=limits_left(view, answer)), answer, fixed)
        return answer
