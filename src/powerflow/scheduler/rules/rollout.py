"""Manage some projects only, so that a cluster can introduce PowerFlow project by project.

Jobs of unmanaged projects run as on a cluster without PowerFlow: first come, first served, on the GPUs that their
owners requested, without a change of clocks, and never stopped or moved. Managed jobs take their place in the same
queue with what they requested, so that they take nothing from the others. The policy decides about them, within the
GPUs that the unmanaged jobs leave.
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
from powerflow.scheduler.rules.wrapper import Wrapper


class Rollout(Wrapper):
    """A policy for managed jobs; unmanaged ones run as their owners requested."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self._shadow = copy.deepcopy(inner)  # its memory follows the same views, but its answers are never carried out

    def decide(self, view: View) -> Allocation:
        """Return what was requested for unmanaged jobs, and the inner policy's answer for the others."""
        unmanaged = view.jobs["unmanaged"]
        if not unmanaged.any():
            return self.inner.decide(view)
        need = requested_gpus(view)
        answer = view.nothing()
        answer.gpus = _as_requested(view, need)
        if unmanaged.all():
            return answer
        limit_w = view.limit_w
        if "" in limit_w:
            limit_w = {**limit_w, "": max(0.0, limit_w[""] - max(0.0, added_w(view, answer)))}
        answer = decide_rest(self.inner, replace(view, limit_w=limit_w), answer, unmanaged)
        # GPUs that the policy leaves free go to unmanaged jobs that wait
        order = by_arrival(view)
        queue = order[unmanaged[order] & (answer.gpus[order] == 0) & (need[order] > 0)]
        more = take_until_blocked(need, queue, view.capacity - int(answer.gpus.sum()))
        return replace(answer, gpus=answer.gpus + more, clock=np.where(more > 0, view.clock_max, answer.clock))

    def wish(self, view: View) -> Allocation:
        """Return what the policy would do if every project were managed."""
        return self._shadow.decide(view.with_jobs(unmanaged=False))


def _as_requested(view: View, need: IntArray) -> IntArray:
    """Return the GPUs of unmanaged jobs, ``[J]``: those that they hold, or their request when their turn comes."""
    unmanaged, held = view.jobs["unmanaged"], held_gpus(view)
    has = view.jobs["gpus"].astype(np.int64)
    if has.sum() <= view.capacity:  # otherwise nodes have failed
        known = view.count_index[np.minimum(has, len(view.count_index) - 1)] >= 0
        held = np.where(unmanaged & known, has, held)  # they do run, even if the cost tables say that they cannot
    counted = np.where(unmanaged, held, np.minimum(held, need))
    order = by_arrival(view)
    queue = order[(counted[order] == 0) & (need[order] > 0) & (need[order] <= view.capacity)]
    given = take_until_blocked(need, queue, view.capacity - int(counted.sum()))
    return np.where(unmanaged, held + given, 0).astype(np.int64)
