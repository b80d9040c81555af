"""Keep the limits in watts that energy budgets set, by raising the price of energy and then by running fewer jobs.

A price alone cannot keep a budget: there may be more work than the budget pays for at any price. Late in a budget
window the governor therefore also sets a limit in watts (`powerflow.energy.governor.Governor.limit_w`), for the whole
cluster or for the jobs of one project. If the policy's answer exceeds it:

1. The price of energy rises for the whole scope, to the lowest price at which the limit holds.
2. If the limit does not hold at the highest price, a project runs fewer jobs, and the cluster uses fewer GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.wrapper import Wrapper

#: The highest price of energy, in units of 1 ÷ (watts above idle of the GPU that draws most).
DEAREST = 32.0
#: Steps of the search for a price, by bisection over four powers of ten.
STEPS = 5
#: Passes over all scopes: GPUs that one limit takes away may go to another scope, which then exceeds its own limit.
ROUNDS = 3


class PowerLimit(Wrapper):
    """A policy that stays within the limits of ``View.limit_w``.

    Attributes:
        binding: Scopes whose limits changed the last answer.
        cutting: Those of them that had to run fewer jobs or use fewer GPUs.
        less: Ids (`JOB` ``id``) of the jobs that got fewer GPUs or a lower clock in the last answer because of limits.
    """

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.binding: set[str] = set()
        self.cutting: set[str] = set()
        self.less: frozenset[int] = frozenset()

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer, within all limits."""
        self.binding, self.cutting, self.less = set(), set(), frozenset()
        wish = self.inner.decide(view)
        if within_limits(view, wish):
            return wish
        answer = self._limit(view, wish)
        lower = (answer.gpus == wish.gpus) & (answer.clock < wish.clock) & (answer.gpus > 0)
        self.less = frozenset(view.jobs["id"][(answer.gpus < wish.gpus) | lower].tolist())
        return answer

    def _limit(self, view: View, answer: Allocation) -> Allocation:
        world = _World(view, np.ones(len(view.jobs), np.bool_))
        for _ in range(ROUNDS):
            for scope in sorted(view.limit_w, reverse=True):  # the cluster ("") last: it may use what projects leave
                if not _fits(view, answer, scope):
                    world = self._within(world, scope)
                    answer = self._ask(world)
            if within_limits(view, answer):
                return answer
        for scope in view.limit_w:  # limits that cannot be met together: stop the scope (has not happened yet)
            if not _fits(view, answer, scope):
                gone = members(view, scope) if scope else np.ones(len(view.jobs), np.bool_)
                answer = replace(answer, gpus=np.where(gone, 0, answer.gpus))
        return answer

    def _within(self, world: _World, scope: str) -> _World:
        """Return a world in which a scope's limit holds, as close to the given one as possible."""
        self.binding.add(scope)
        dear = world.at(scope, max(_price(world.view, scope), dearest(world.view)))
        if self._holds(dear, scope):
            return self._cheapest(world, dear, scope)
        self.cutting.add(scope)
        return self._with_fewer_jobs(dear, scope) if scope else self._with_fewer_gpus(dear)

    def _cheapest(self, world: _World, dear: _World, scope: str) -> _World:
        """Return the world with about the lowest price at which the limit holds; it holds in ``dear``."""
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
        """Return the world with the most GPUs with which the cluster's limit holds."""
        fits, too_many = 0, world.view.capacity
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._holds(world.on(middle), ""):
                fits = middle
            else:
                too_many = middle
        return world.on(fits)

    def _with_fewer_jobs(self, world: _World, scope: str) -> _World:
        """Return the world with the most jobs of a project with which its limit holds; heavy and running jobs stay."""
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
        """Return the inner policy's answer for the jobs of a world; all others get nothing."""
        view, there = world.view, world.there
        if there.all():
            return self.inner.decide(view)
        part = self.inner.decide(view.of_jobs(there))
        answer = view.nothing()
        answer.gpus[there], answer.clock[there], answer.gpu_price = part.gpus, part.clock, part.gpu_price
        if part.worth is not None:
            answer.worth = np.zeros(len(there))
            answer.worth[there] = part.worth
        return answer


@dataclass(frozen=True, slots=True, eq=False)
class _World:
    """A variant of the view to ask the inner policy about; ``there``, ``[J]``, are the jobs that it has."""

    view: View
    there: BoolArray

    def at(self, scope: str, price: float) -> _World:
        """Return this world with another λ_E for the jobs of a scope."""
        return replace(self, view=_priced(self.view, scope, price))

    def on(self, gpus: int) -> _World:
        """Return this world with another number of GPUs."""
        return replace(self, view=replace(self.view, capacity=gpus))

    def without(self, jobs: IntArray) -> _World:
        """Return this world without some jobs."""
        there = self.there.copy()
        there[jobs] = False
        return replace(self, there=there)


def added_w(view: View, answer: Allocation, scope: str = "") -> float:
    """Return the believed watts that an allocation's jobs of one scope add.

    For the cluster (""), these are watts above idle, because its GPUs draw their idle watts anyway. For a project they
    include the idle watts of the GPUs that it holds.
    """
    runs = answer.gpus > 0
    if scope:
        runs = runs & members(view, scope)
    gpus = answer.gpus[runs]
    power_w = view.power_w[view.jobs["cost"][runs], view.count_index[gpus], answer.clock[runs]]
    return float(np.sum(power_w - (0.0 if scope else view.idle_w) * gpus))


def exceeded(view: View) -> bool:
    """Return whether the jobs as they run now are believed to exceed a limit."""
    return not within_limits(view, Allocation(view.jobs["gpus"].astype(np.int64), view.jobs["clock"].astype(np.int64)))


def within_limits(view: View, answer: Allocation) -> bool:
    """Return whether an allocation is believed to stay within every limit."""
    return all(_fits(view, answer, scope) for scope in view.limit_w)


def limits_left(view: View, answer: Allocation) -> Mapping[str, float]:
    """Return, by scope, the watts that an allocation leaves of each limit."""
    return {scope: max(0.0, watts - added_w(view, answer, scope)) for scope, watts in view.limit_w.items()}


def members(view: View, project: str) -> BoolArray:
    """Return which jobs belong to a project, ``[J]``."""
    code = view.projects.index(project) if project in view.projects else -1
    return np.asarray(view.jobs["project"] == code, np.bool_)


def dearest(view: View) -> float:
    """Return the highest price of energy that a limit may set, seconds per joule."""
    each_w = view.power_w[:, :, -1] / view.gpu_counts - view.idle_w
    most_w = float(each_w[np.isfinite(each_w)].max(initial=0.0))
    return DEAREST / most_w if most_w > 0 else 0.0


def _fits(view: View, answer: Allocation, scope: str) -> bool:
    return added_w(view, answer, scope) <= view.limit_w[scope]


def _price(view: View, scope: str) -> float:
    """Return λ_E of a scope's jobs."""
    if not scope:
        return view.energy_price
    added = 0.0
    if view.project_price is not None and scope in view.projects:
        added = float(view.project_price[view.projects.index(scope)])
    return view.energy_price + added


def _priced(view: View, scope: str, price: float) -> View:
    """Return the view with another λ_E for the jobs of a scope."""
    if not scope:
        return replace(view, energy_price=price)
    if scope not in view.projects:
        return view
    added = np.zeros(len(view.projects)) if view.project_price is None else view.project_price.copy()
    added[view.projects.index(scope)] = price - view.energy_price
    return replace(view, project_price=added)
