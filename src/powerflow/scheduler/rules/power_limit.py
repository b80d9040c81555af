"""Keep the limits in watts that energy budgets set, by raising the price of energy and then by running fewer jobs.

A price alone cannot keep a budget: there may be more work than the budget pays for at any price. Late in a budget
window, the governor therefore also sets a limit in watts (`powerflow.energy.governor.Governor.limit_w`), for the whole
cluster or for the jobs of one project. If the policy's answer exceeds this limit:

1. The price of energy rises for all jobs that the limit concerns, to about the lowest price at which they keep it.
2. If the jobs exceed the limit even at the highest price, a project runs fewer jobs; the cluster uses fewer GPUs.
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
#: Steps of the search for a price. The search halves a range of four powers of ten again and again.
STEPS = 5
#: How often all limits are checked: GPUs that one limit takes from a project may go to another project, which may then
#: exceed its own limit.
ROUNDS = 3


class PowerLimit(Wrapper):
    """Keep the answers of a policy within the limits in watts that energy budgets set (``View.limit_w``).

    Attributes:
        binding: Names of the projects ("" for the cluster) whose limits changed the last answer.
        cutting: Names of the projects that run fewer jobs in the last answer because a higher energy price was not
            enough. It contains "" if the cluster uses fewer GPUs for this reason.
        less: Numbers (``id`` of `JOB`) of the jobs that got fewer GPUs or a lower clock in the last answer because of
            limits.
    """

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.binding: set[str] = set()
        self.cutting: set[str] = set()
        self.less: frozenset[int] = frozenset()

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer, changed so that it stays within all limits in watts."""
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
        """Return a variant of the view in which the inner policy keeps one limit, with as few changes as possible.

        Args:
            world: The view so far, which may already have higher prices or fewer jobs because of other limits.
            scope: Whose limit to keep: the name of a project, or "" for the cluster.
        """
        self.binding.add(scope)
        dear = world.at(scope, max(_price(world.view, scope), dearest(world.view)))
        if self._holds(dear, scope):
            return self._cheapest(world, dear, scope)
        self.cutting.add(scope)
        return self._with_fewer_jobs(dear, scope) if scope else self._with_fewer_gpus(dear)

    def _cheapest(self, world: _World, dear: _World, scope: str) -> _World:
        """Return the variant of the view with about the lowest energy price at which the limit of ``scope`` holds.

        The limit holds at the price in ``dear`` and does not hold at the price in ``world``.
        """
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
        """Return the variant of the view with the most GPUs with which the limit of the whole cluster holds."""
        fits, too_many = 0, world.view.capacity
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._holds(world.on(middle), ""):
                fits = middle
            else:
                too_many = middle
        return world.on(fits)

    def _with_fewer_jobs(self, world: _World, scope: str) -> _World:
        """Return the variant of the view with the most jobs of a project with which the limit of the project holds.

        Jobs are kept in this order: protected jobs, jobs with a high weight, running jobs, jobs submitted early.
        """
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
        """Return the inner policy's answer for the jobs in a variant of the view; all other jobs get no GPUs."""
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
    """Hold a variant of the view to ask the inner policy about; ``there``, ``[J]``, says which of J jobs are in it."""

    view: View
    there: BoolArray

    def at(self, scope: str, price: float) -> _World:
        """Return this variant of the view with another energy price λ_E for the jobs of a project ("": all jobs)."""
        return replace(self, view=_priced(self.view, scope, price))

    def on(self, gpus: int) -> _World:
        """Return this variant of the view with another number of GPUs."""
        return replace(self, view=replace(self.view, capacity=gpus))

    def without(self, jobs: IntArray) -> _World:
        """Return this variant of the view without the jobs in some rows."""
        there = self.there.copy()
        there[jobs] = False
        return replace(self, there=there)


def added_w(view: View, answer: Allocation, scope: str = "") -> float:
    """Return the watts that the jobs of the cluster or of one project are believed to add under an allocation.

    Args:
        view: All jobs.
        answer: The allocation.
        scope: "" for the cluster: watts above idle, because the GPUs of the cluster draw their idle watts anyway.
            Otherwise the name of a project: watts including the idle watts of the GPUs that its jobs hold.
    """
    runs = answer.gpus > 0
    if scope:
        runs = runs & members(view, scope)
    gpus = answer.gpus[runs]
    power_w = view.power_w[view.jobs["cost"][runs], view.count_index[gpus], answer.clock[runs]]
    return float(np.sum(power_w - (0.0 if scope else view.idle_w) * gpus))


def exceeded(view: View) -> bool:
    """Return True if the jobs, as they run now, are believed to exceed a limit in watts that an energy budget sets."""
    return not within_limits(view, Allocation(view.jobs["gpus"].astype(np.int64), view.jobs["clock"].astype(np.int64)))


def within_limits(view: View, answer: Allocation) -> bool:
    """Return True if an allocation is believed to stay within all limits in watts that energy budgets set."""
    return all(_fits(view, answer, scope) for scope in view.limit_w)


def limits_left(view: View, answer: Allocation) -> Mapping[str, float]:
    """Return the watts that an allocation leaves of the limit of each energy budget.

    The keys are names of projects; "" is the whole cluster.
    """
    return {scope: max(0.0, watts - added_w(view, answer, scope)) for scope, watts in view.limit_w.items()}


def members(view: View, project: str) -> BoolArray:
    """Return an array ``[J]``: True for the jobs of the view that belong to the project."""
    code = view.projects.index(project) if project in view.projects else -1
    return np.asarray(view.jobs["project"] == code, np.bool_)


def dearest(view: View) -> float:
    """Return the highest energy price, seconds per joule, that may be used to keep a limit in watts.

    It is 32 (`DEAREST`) ÷ the watts above idle draw of the GPU that draws most; 0 if no GPU draws more than idle.
    """
    each_w = view.power_w[:, :, -1] / view.gpu_counts - view.idle_w
    most_w = float(each_w[np.isfinite(each_w)].max(initial=0.0))
    return DEAREST / most_w if most_w > 0 else 0.0


def _fits(view: View, answer: Allocation, scope: str) -> bool:
    return added_w(view, answer, scope) <= view.limit_w[scope]


def _price(view: View, scope: str) -> float:
    """Return the energy price λ_E for the jobs of a project; for "", the energy price of the whole cluster."""
    if not scope:
        return view.energy_price
    added = 0.0
    if view.project_price is not None and scope in view.projects:
        added = float(view.project_price[view.projects.index(scope)])
    return view.energy_price + added


def _priced(view: View, scope: str, price: float) -> View:
    """Return the view with another energy price λ_E for the jobs of a project; "" stands for all jobs."""
    if not scope:
        return replace(view, energy_price=price)
    if scope not in view.projects:
        return view
    added = np.zeros(len(view.projects)) if view.project_price is None else view.project_price.copy()
    added[view.projects.index(scope)] = price - view.energy_price
    return replace(view, project_price=added)
