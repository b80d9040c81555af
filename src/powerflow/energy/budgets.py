"""Combine all energy budgets of a cluster with its signals (tariff, carbon), for the simulator and the controller.

Each budget has an object that keeps it by a price and by a limit in watts. The price of the cluster's budget applies to
all jobs; that of a project's budget is added for the project's jobs. Signals multiply all prices.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from powerflow.energy.budget import Warned
from powerflow.energy.response import Response
from powerflow.energy.signal import Signal, factor
from powerflow.energy.terms import EnergyTerms


class Keeper(Protocol):
    """Interface of an object that keeps one budget: a `Governor`, or in studies a constant price."""

    @property
    def price(self) -> float:
        """Energy price λ_E that this budget sets, in seconds per joule."""
        ...

    def observe(self, now_s: float, meter_j: float, remaining_j: Sequence[float] | None, limited: bool) -> list[Warned]:
        """Update the price from a reading of the energy meter; see `Governor.observe`."""
        ...

    def learn(self, day: Response) -> None:
        """Learn how much energy one more day of jobs needs at each price; see `Governor.learn`."""
        ...

    def limit_w(self, now_s: float) -> float:
        """Return the watts that may be drawn now so that the budget lasts; see `Governor.limit_w`."""
        ...


class Budgets:
    """All energy budgets of a cluster. Each has a scope: "" for the cluster, otherwise the name of a project.

    Args:
        keepers: For each budget, by scope, the object that keeps it.
        signals: Tariff and carbon signals, each with its weight (`powerflow.energy.signal.factor`).
        price: λ_E for all jobs if the cluster has no budget, seconds per joule.
    """

    def __init__(
        self, keepers: Mapping[str, Keeper], signals: Sequence[tuple[Signal, float]] = (), price: float = 0.0
    ) -> None:
        self.keepers = keepers
        self._signals = signals
        self._price = price

    def observe(
        self,
        now_s: float,
        meter_j: Mapping[str, float],
        remaining_j: Mapping[str, Sequence[float]],
        limited: Collection[str] = (),
    ) -> list[Warned]:
        """Pass readings of the energy meters to all budgets.

        Args:
            now_s: The present, Unix seconds.
            meter_j: Meter reading of each scope (a project, or "" for the cluster), in joules, never falling.
            remaining_j: Energy that the active jobs of each scope still need, at each price. A scope may be left out.
            limited: Scopes whose limit in watts has delayed jobs since the last call.

        Returns:
            Warnings that are due now.
        """
        warned = []
        for scope, keeper in self.keepers.items():
            warned += keeper.observe(now_s, meter_j.get(scope, 0.0), remaining_j.get(scope), scope in limited)
        return warned

    def learn(self, day: Mapping[str, Response]) -> None:
        """Learn how much energy the jobs of one simulated day needed at each price.

        ``day`` has the cluster ("") and each project with jobs on that day.
        """
        for scope, keeper in self.keepers.items():
            if scope in day:
                keeper.learn(day[scope])

    def terms(self, now_s: float, idle_w: float) -> EnergyTerms:
        """Return the prices and power limits that are valid until the next `observe`.

        Args:
            now_s: The present, Unix seconds.
            idle_w: Watts that the cluster draws without any job.
        """
        times, _ = factor(self._signals, now_s)
        price = self.keepers[""].price if "" in self.keepers else self._price
        limits = {scope: keeper.limit_w(now_s) for scope, keeper in self.keepers.items()}
        return EnergyTerms(
            times * price,
            {scope: times * keeper.price for scope, keeper in self.keepers.items() if scope},
            {
                scope: max(0.0, watts if scope else watts - idle_w)
                for scope, watts in limits.items()
                if watts < math.inf
            },
        )
