"""A simulation under energy budgets: the code that the live controller uses, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from powerflow.energy.budget import Warned
from powerflow.energy.budgets import Budgets
from powerflow.energy.response import Response
from powerflow.policy.protocol import Policy
from powerflow.scheduler.ledger import advance
from powerflow.scheduler.remaining_energy import remaining_energy_j
from powerflow.scheduler.rules.power_limit import PowerLimit
from powerflow.scheduler.rules.wrapper import find_wrapper
from powerflow.simulate.belief import Belief
from powerflow.simulate.run import Simulation
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from powerflow.units import DAY_S

#: The meter is read, and the price set, this often.
TICK_S = 1800.0


@dataclass(frozen=True, slots=True)
class Tick:
    """What stood when the meter was read, and had stood since the time before.

    Attributes:
        now_s: Simulated seconds.
        meter_j: Joules since the beginning.
        price: λ_E from now on.
        limited: The limit in watts made joules dearer than that.
        cut: It also took GPUs away.
        waiting: Jobs without GPUs.
    """

    now_s: float
    meter_j: float
    price: float
    limited: bool
    cut: bool
    waiting: int


class GovernedSimulation(Simulation):
    """A simulation that reads its meter every half hour and sets the terms that its budgets' keepers say.

    Args:
        workload, policy, belief, world: As of `Simulation`.
        budgets: Of the cluster, of projects.
        prices: Those of the keepers, for the remaining energy of jobs.
        epoch_s: Unix seconds of the simulation's 0.
        day: By scope, what the arrivals of a day, counted from 0, would cost by the belief; asked when it is over.
    """

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        budgets: Budgets,
        *,
        prices: tuple[float, ...],
        epoch_s: float,
        day: Callable[[int], Mapping[str, Response]],
        belief: Belief | None = None,
        world: World | None = None,
    ) -> None:
        super().__init__(workload, PowerLimit(policy), belief=belief, world=world)
        self.budgets = budgets
        self.prices = prices
        self.epoch_s = epoch_s
        self.day = day
        self.ticks: list[Tick] = []
        self.warned: list[Warned] = []
        self._tick_s = 0.0

    def _moment(self) -> None:
        if self._tick_s <= self._next_s():
            self._tick()
        else:
            super()._moment()

    def _tick(self) -> None:
        now_s = self._tick_s
        self._advance_to(now_s)
        if now_s % DAY_S == 0 and now_s > 0:
            self.budgets.learn(self.day(round(now_s / DAY_S) - 1))
        limited = self.scheduler.limited
        limits = [find_wrapper(policy, PowerLimit) for policy in self.scheduler.policies.values()]
        cut = any(limit.cutting for limit in limits if limit is not None)
        scopes = self.budgets.keepers.keys()
        self.warned += self.budgets.observe(self.epoch_s + now_s, self._meters(), self._remaining(scopes), limited)
        terms = self.budgets.terms(self.epoch_s + now_s, self._nodes.tail_watts())
        self._pending.append(terms)
        self._wake_s = now_s
        self.ticks.append(Tick(now_s, self.meter.joules, terms.price, bool(limited), cut, self.waiting))
        self._tick_s += TICK_S

    def _remaining(self, scopes: Iterable[str]) -> dict[str, list[float]]:
        now = self._progress.at(self.now_s)
        advance(self.scheduler.ledger.rows["done"], now.slots, now.done)
        return remaining_energy_j(self.scheduler, self.prices, scopes, self.now_s)

    def _meters(self) -> dict[str, float]:
        """By scope, joules so far: a project's are those of its jobs, running ones included."""
        meters = {"": self.meter.joules}
        if self.budgets.keepers.keys() - {""}:
            energy_j = [*self.energy_j]
            for run in self.runs.values():
                energy_j[run.job] += run.energy_j(self.now_s)
            for job, joules in zip(self.jobs, energy_j, strict=True):
                if job.project:
                    meters[job.project] = meters.get(job.project, 0.0) + joules
        return meters
