"""All budgets of a cluster together, and the signals that say when a joule is dear: what both bodies drive.

Each budget has a keeper of its own. What they say becomes the terms on which jobs get energy: the cluster's price for
everybody, each project's price on top for its jobs, and a limit in watts for each; signals move all prices alike.
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
    """What keeps one budget: a `powerflow.energy.governor.Governor`, or a constant to compare it with."""

    @property
    def price(self) -> float:
        """λ_E, seconds per joule."""
        ...

    def observe(self, now_s: float, meter_j: float, owed_j: Sequence[float] | None, limited: bool) -> list[Warned]:
        """As of `Governor.observe`."""
        ...

    def learn(self, day: Response) -> None:
        """As of `Governor.learn`."""
        ...

    def limit_w(self, now_s: float) -> float:
        """As of `Governor.limit_w`."""
        ...


class Budgets:
    """The keepers of all budgets, by scope: "" is the cluster, else a project.

    Args:
        keepers: One for each budget.
        signals: What makes a joule dear or cheap, each with its weight (`powerflow.energy.signal.factor`).
        price: λ_E for everybody where the cluster has no budget, seconds per joule.
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
        owed_j: Mapping[str, Sequence[float]],
        limited: Collection[str] = (),
    ) -> list[Warned]:
        """Tell every keeper of its meter.

        Args:
            now_s: The present, Unix seconds.
            meter_j: By scope, joules on a meter that only grows.
            owed_j: By scope, what its jobs still need at each price; scopes that nobody knows it of are left out.
            limited: Scopes whose limit has held back jobs since the time before.

        Returns:
            Warnings that are due now.
        """
        warned = []
        for scope, keeper in self.keepers.items():
            warned += keeper.observe(now_s, meter_j.get(scope, 0.0), owed_j.get(scope), scope in limited)
        return warned

    def learn(self, day: Mapping[str, Response]) -> None:
        """Tell the keepers what a day would have cost, by scope; those that are not named had no jobs."""
        for scope, keeper in self.keepers.items():
            if scope in day:
                keeper.learn(day[scope])

    def terms(self, now_s: float, idle_w: float) -> EnergyTerms:
        """The terms until the next `observe`.

        Args:
            now_s: The present, Unix seconds.
            idle_w: Watts that the cluster draws with no job on it.
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
