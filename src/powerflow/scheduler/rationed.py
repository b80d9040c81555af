"""Any policy within a budget's limit in watts: joules get dearer until it holds, and then fewer jobs run.

A price alone cannot keep a budget: there may be more work than it pays for at any price. Late in a window its keeper
therefore says how many watts may be drawn (`powerflow.energy.governor.Governor.limit_w`), for the whole cluster or for
the jobs of a project. First the price of energy rises, for the whole scope alike. If at the dearest price it is still
too much, the cluster has fewer GPUs, and a project fewer jobs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from powerflow.cost.table import IntArray
from powerflow.policy.protocol import Allocation, Policy, View

#: The dearest joule, in natural prices: 1 ÷ (watts above idle of the GPU that draws most).
DEAREST = 32.0
#: Bisections of the price, on a scale of four decades.
STEPS = 5

Ask = Callable[[View], Allocation]


class Rationed:
    """A policy within ``View.limit_w``.

    Args:
        inner: Who decides.

    Attributes:
        binding: Scopes for whose limit the last answer is another.
        cutting: Those of them that have fewer GPUs at work than the policy would give them at the dearest price.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = inner.name
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s
        self.binding: set[str] = set()
        self.cutting: set[str] = set()

    def decide(self, view: View) -> Allocation:
        """The inner policy's answer at the lowest prices, or else with the most GPUs or jobs, within all limits."""
        self.binding, self.cutting = set(), set()
        if not view.limit_w:
            return self.inner.decide(view)
        return self._within(view, sorted(view.limit_w))

    def _within(self, view: View, scopes: Sequence[str]) -> Allocation:
        """The answer within the limits of some scopes: of the first, given that those of the others hold."""
        if not scopes:
            return self.inner.decide(view)
        scope, rest = scopes[0], scopes[1:]

        def ask(other: View) -> Allocation:
            return self._within(other, rest)

        answer = ask(view)
        if _fits(view, answer, scope):
            return answer
        self.binding.add(scope)
        dear = _priced(view, scope, max(_price(view, scope), dearest(view)))
        answer = ask(dear)
        if _fits(view, answer, scope):
            return self._cheapest(ask, view, dear, scope, answer)
        self.cutting.add(scope)
        return _with_fewer_jobs(ask, dear, scope) if scope else _with_fewer_gpus(ask, dear)

    @staticmethod
    def _cheapest(ask: Ask, view: View, dear: View, scope: str, answer: Allocation) -> Allocation:
        """The answer at the lowest price, as far as looked for, that fits."""
        high = _price(dear, scope)
        low = max(_price(view, scope), high * 1e-4)
        for _ in range(STEPS):
            middle = math.sqrt(low * high)
            tried = ask(_priced(view, scope, middle))
            if _fits(view, tried, scope):
                answer, high = tried, middle
            else:
                low = middle
        return answer


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


def members(view: View, project: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
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


def _with_fewer_gpus(ask: Ask, view: View) -> Allocation:
    """The answer on the most GPUs with which the cluster's limit holds."""
    answer, fits, too_many = view.nothing(), 0, view.capacity
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        tried = ask(replace(view, capacity=middle))
        if _fits(view, tried, ""):
            answer, fits = tried, middle
        else:
            too_many = middle
    return answer


def _with_fewer_jobs(ask: Ask, view: View, scope: str) -> Allocation:
    """The answer with the most jobs of a project with which its limit holds: the heaviest, running ones first."""
    mine = np.flatnonzero(members(view, scope))
    its = view.jobs[mine]
    order = mine[np.lexsort((its["id"], its["gpus"] == 0, -its["weight"], ~its["protected"]))]
    fits, too_many = 0, len(order)
    answer = _without(ask, view, order)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        tried = _without(ask, view, order[middle:])
        if _fits(view, tried, scope):
            answer, fits = tried, middle
        else:
            too_many = middle
    return answer


def _without(ask: Ask, view: View, out: IntArray) -> Allocation:
    """The answer for all but some jobs, which get nothing."""
    there = np.ones(len(view.jobs), np.bool_)
    there[out] = False
    jobs = view.jobs[there]
    jobs.flags.writeable = False
    part = ask(replace(view, jobs=jobs))
    answer = view.nothing()
    answer.gpus[there], answer.clock[there], answer.gpu_price = part.gpus, part.clock, part.gpu_price
    if part.worth is not None:
        answer.worth = np.zeros(len(there))
        answer.worth[there] = part.worth
    return answer
