"""Manage some projects only, so that a cluster can introduce PowerFlow project by project.

Jobs of unmanaged projects run as on a cluster without PowerFlow: first come, first served, on the GPUs that their
owners requested, without a change of clocks, and never stopped or moved. Managed jobs wait in the same queue, each with
the GPUs that it requested, so that they take nothing from unmanaged jobs. The policy decides about the managed jobs, on
the GPUs that the unmanaged jobs leave.
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
    """Let a policy decide about managed jobs only; unmanaged jobs run as their owners requested."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self._shadow = copy.deepcopy(inner)  # its memory follows the same views, but its answers are never carried out

    def decide(self, view: View) -> Allocation:
        """Return an allocation: unmanaged jobs get what they requested, the inner policy decides about managed jobs."""
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
        """Return the allocation that the policy would give if PowerFlow managed all projects."""
        return self._shadow.decide(view.with_jobs(unmanaged=False))


def _as_requested(view: View, need: IntArray) -> IntArray:
    """Return the GPU counts of unmanaged jobs, ``[J]`` for J jobs; 0 for managed jobs.

    A running unmanaged job keeps the GPUs that it holds. A waiting job gets the GPUs that it requested when it is first
    in the queue of all waiting jobs and enough GPUs are free; otherwise it gets 0.

    Args:
        view: All jobs.
        need: ``[J]`` GPUs that each job requested.
    """
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
