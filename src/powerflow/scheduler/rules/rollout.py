"""Who is acted on, and who is only watched: how a cluster takes PowerFlow into use project by project.

Jobs of a project that is not acted on run as on a cluster without PowerFlow: first come, first served, on the GPUs
their owners asked for, clocks untouched, never stopped or moved. Those that are acted on count in that queue with what
they asked for, so that a canary takes nothing from its neighbours; the policy decides for them, within what is left.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from powerflow.arrays import IntArray
from powerflow.policy.levels import by_arrival, held_gpus, requested_gpus, take_until_blocked
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.partial import decide_rest
from powerflow.scheduler.rules.power_limit import added_w


class Rollout:
    """A policy for the jobs that are acted on; all others run as their owners asked.

    Args:
        inner: Who decides for the former.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.shadow = copy.deepcopy(inner)  # with a memory of its own: it sees what is, and is never obeyed
        self.name = inner.name
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s

    def decide(self, view: View) -> Allocation:
        """As asked, or as the inner policy says."""
        watched = view.jobs["untouched"]
        if not watched.any():
            return self.inner.decide(view)
        need = requested_gpus(view)
        answer = view.nothing()
        answer.gpus = _as_asked(view, need)
        if watched.all():
            return answer
        limit_w = view.limit_w
        if "" in limit_w:
            limit_w = {**limit_w, "": max(0.0, limit_w[""] - max(0.0, added_w(view, answer)))}
        answer = decide_rest(self.inner, replace(view, limit_w=limit_w), answer, watched)
        # what the policy leaves free is no reason to let others wait
        order = by_arrival(view)
        queue = order[watched[order] & (answer.gpus[order] == 0) & (need[order] > 0)]
        more = take_until_blocked(need, queue, view.capacity - int(answer.gpus.sum()))
        return replace(answer, gpus=answer.gpus + more, clock=np.where(more > 0, view.clock_max, answer.clock))

    def wish(self, view: View) -> Allocation:
        """What the policy would do if it acted on all jobs."""
        jobs = view.jobs.copy()
        jobs["untouched"] = False
        jobs.flags.writeable = False
        return self.shadow.decide(replace(view, jobs=jobs))


def _as_asked(view: View, need: IntArray) -> IntArray:
    """GPUs of the jobs that are only watched, ``[J]``: what they hold, or what they asked for when it is their turn."""
    watched, held = view.jobs["untouched"], held_gpus(view)
    has = view.jobs["gpus"].astype(np.int64)
    if has.sum() <= view.capacity:  # else nodes have failed
        known = view.count_index[np.minimum(has, len(view.count_index) - 1)] >= 0
        held = np.where(watched & known, has, held)  # also where it is believed that they cannot run so: they do
    counted = np.where(watched, held, np.minimum(held, need))
    order = by_arrival(view)
    queue = order[(counted[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
    given = take_until_blocked(need, queue, view.capacity - int(counted.sum()))
    return np.where(watched, held + given, 0).astype(np.int64)
