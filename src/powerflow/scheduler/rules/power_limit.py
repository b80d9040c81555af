"""Any policy within a budget's limit in watts: joules get dearer until it holds, and then fewer jobs run.

A price alone cannot keep a budget: there may be more work than it pays for at any price. Late in a window its keeper
therefore says how many watts may be drawn (`powerflow.energy.governor.Governor.limit_w`), for the whole cluster or for
the jobs of a project. First the price of energy rises, for the whole scope alike. If at the dearest price it is still
too much, the cluster has fewer GPUs, and a project fewer jobs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerflow.arrays import IntArray
from powerflow.policy.protocol import Allocation, Policy, View

#: The dearest joule, in natural prices: 1 ÷ (watts above idle of the GPU that draws most).
DEAREST = 32.0
#: Bisections of the price, on a scale of four decades.
STEPS = 5
#: What one limit takes away may go to another scope, and exceed its limit: they are all looked at so often.
ROUNDS = 3


class PowerLimit:
    """A policy within ``View.limit_w``.

    Args:
        inner: Who decides.

    Attributes:
        binding: Scopes for whose limit the last answer is another.
        cutting: Those of them that have fewer GPUs at work than the policy would give them at the dearest price.
        less: Numbers (`JOB` ``id``) of the jobs that the last answer gives fewer GPUs, or a lower clock, for it.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = inner.name
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s
        self.binding: set[str] = set()
        self.cutting: set[str] = set()
        self.less: frozenset[int] = frozenset()

    def decide(self, view: View) -> Allocation:
        """The inner policy's answer at the lowest prices, or else with the most GPUs or jobs, within all limits."""
        self.binding, self.cutting, self.less = set(), set(), frozenset()
        wish = self.inner.decide(view)
        if within_limits(view, wish):
            return wish
        answer = self._ration(view, wish)
        lower = (answer.gpus == wish.gpus) & (answer.clock < wish.clock) & (answer.gpus > 0)
        self.less = frozenset(view.jobs["id"][(answer.gpus < wish.gpus) | lower].tolist())
        return answer

    def _ration(self, view: View, answer: Allocation) -> Allocation:
        world = _World(view, np.ones(len(view.jobs), np.bool_))
        for _ in range(ROUNDS):
            for scope in sorted(view.limit_w, reverse=True):  # the cluster's last: what projects leave unused is there
                if not _fits(view, answer, scope):
                    world = self._within(world, scope)
                    answer = self._ask(world)
            if within_limits(view, answer):
                return answer
        for scope in view.limit_w:  # never seen: limits that cannot be met together without stopping a scope
            if not _fits(view, answer, scope):
                gone = members(view, scope) if scope else np.ones(len(view.jobs), np.bool_)
                answer = replace(answer, gpus=np.where(gone, 0, answer.gpus))
        return answer

    def _within(self, world: _World, scope: str) -> _World:
        """The nearest world in which a scope's limit holds."""
        self.binding.add(scope)
        dear = world.at(scope, max(_price(world.view, scope), dearest(world.view)))
        if self._holds(dear, scope):
            return self._cheapest(world, dear, scope)
        self.cutting.add(scope)
        return self._with_fewer_jobs(dear, scope) if scope else self._with_fewer_gpus(dear)

    def _cheapest(self, world: _World, dear: _World, scope: str) -> _World:
        """At the lowest price, as far as looked for, at which it holds."""
        high = _price(dear.view, scope)
        low = max(_price(world.view, scope), high * 1e-4)
        for _ in range(STEPS):
            middle = math.sqrt(low * high)
            if self._holds(world.at(scope, middle), scope):
                dear, high = world.at(scope, middle), middle
            else:
                low = middle
        return dear

    def _with_fewer_gpus(self, world: _World) -> _World:
        """On the most GPUs with which the cluster's limit holds."""
        fits, too_many = 0, world.view.capacity
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._holds(world.on(middle), ""):
                fits = middle
            else:
                too_many = middle
        return world.on(fits)

    def _with_fewer_jobs(self, world: _World, scope: str) -> _World:
        """With the most jobs of a project with which its limit holds: the heaviest, running ones first."""
        mine = np.flatnonzero(members(world.view, scope) & world.there)
        its = world.view.jobs[mine]
        order = mine[np.lexsort((its["id"], its["gpus"] == 0, -its["weight"], ~its["protected"]))]
        fits, too_many = 0, len(order)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._holds(world.without(order[middle:]), scope):
                fits = middle
            else:
                too_many = middle
        return world.without(order[fits:])

    def _holds(self, world: _World, scope: str) -> bool:
        return _fits(world.view, self._ask(world), scope)

    def _ask(self, world: _World) -> Allocation:
        """The inner policy's answer for the jobs that are there; the others get nothing."""
        view, there = world.view, world.there
        if there.all():
            return self.inner.decide(view)
        jobs = view.jobs[there]
        jobs.flags.writeable = False
        part = self.inner.decide(replace(view, jobs=jobs))
        answer = view.nothing()
        answer.gpus[there], answer.clock[there], answer.gpu_price = part.gpus, part.clock, part.gpu_price
        if part.worth is not None:
            answer.worth = np.zeros(len(there))
            answer.worth[there] = part.worth
        return answer


@dataclass(frozen=True, slots=True, eq=False)
class _World:
    """What the inner policy is shown: a view with dearer joules or fewer GPUs; and ``there``, ``[J]``, jobs in it."""

    view: View
    there: npt.NDArray[np.bool_]

    def at(self, scope: str, price: float) -> _World:
        """The same with another λ_E for a scope's jobs."""
        return replace(self, view=_priced(self.view, scope, price))

    def on(self, gpus: int) -> _World:
        """The same on so many GPUs."""
        return replace(self, view=replace(self.view, capacity=gpus))

    def without(self, jobs: IntArray) -> _World:
        """The same without some jobs."""
        there = self.there.copy()
        there[jobs] = False
        return replace(self, there=there)


def added_w(view: View, answer: Allocation, scope: str = "") -> float:
    """Watts that the jobs of a scope are believed to add to what is drawn without them, by an allocation.

    The cluster's ("") draw their idle watts in any case; a project is charged with those of the GPUs it holds.
    """
    runs = answer.gpus > 0
    if scope:
        runs = runs & members(view, scope)
    gpus = answer.gpus[runs]
    power_w = view.power_w[view.jobs["cost"][runs], view.count_index[gpus], answer.clock[runs]]
    return float(np.sum(power_w - (0.0 if scope else view.idle_w) * gpus))


def exceeded(view: View) -> bool:
    """Whether what jobs have is believed to add more watts than some limit allows."""
    return not within_limits(view, Allocation(view.jobs["gpus"].astype(np.int64), view.jobs["clock"].astype(np.int64)))


def within_limits(view: View, answer: Allocation) -> bool:
    """Whether an allocation is believed to add no more watts than each limit allows."""
    return all(_fits(view, answer, scope) for scope in view.limit_w)


def members(view: View, project: str) -> npt.NDArray[np.bool_]:
    """Which jobs are a project's, ``[J]``."""
    code = view.projects.index(project) if project in view.projects else -1
    return np.asarray(view.jobs["project"] == code, np.bool_)


def dearest(view: View) -> float:
    """The highest price that a limit may set, seconds per joule."""
    each_w = view.power_w[:, :, -1] / view.gpu_counts - view.idle_w
    most_w = float(each_w[np.isfinite(each_w)].max(initial=0.0))
    return DEAREST / most_w if most_w > 0 else 0.0


def _fits(view: View, answer: Allocation, scope: str) -> bool:
    return added_w(view, answer, scope) <= view.limit_w[scope]


def _price(view: View, scope: str) -> float:
    """λ_E of a scope's jobs."""
    if not scope:
        return view.energy_price
    added = 0.0
    if view.project_price is not None and scope in view.projects:
        added = float(view.project_price[view.projects.index(scope)])
    return view.energy_price + added


def _priced(view: View, scope: str, price: float) -> View:
    """The same with another λ_E for a scope's jobs."""
    if not scope:
        return replace(view, energy_price=price)
    if scope not in view.projects:
        return view
    added = np.zeros(len(view.projects)) if view.project_price is None else view.project_price.copy()
    added[view.projects.index(scope)] = price - view.energy_price
    return replace(view, project_price=added)
