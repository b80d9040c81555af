"""A simulation under energy budgets: the code that the live controller uses, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from powerflow.energy.budget import Warned
from powerflow.energy.budgets import Budgets
from powerflow.energy.response import Response
from powerflow.policy.protocol import Policy
from powerflow.scheduler.ledger import advance
from powerflow.scheduler.remaining_energy import owed_j
from powerflow.scheduler.rules.power_limit import PowerLimit
from powerflow.scheduler.rules.wrapper import layer
from powerflow.simulate.belief import Belief
from powerflow.simulate.run import Simulation, World
from powerflow.simulate.workload.workload import Workload
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
        prices: Those of the keepers, for what is owed.
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
        next_s = min(self._arrival_s, self._run_due_s(), self._nodes.due_s(), self._wake_s)
        if self._tick_s <= next_s:
            self._tick()
        else:
            super()._moment()

    def _tick(self) -> None:
        now_s = self._tick_s
        self.meter.advance(now_s)
        self.idle_j += self._idle_watts * (now_s - self.now_s)
        self.now_s = now_s
        if now_s % DAY_S == 0 and now_s > 0:
            self.budgets.learn(self.day(round(now_s / DAY_S) - 1))
        limited = self.scheduler.limited
        rations = [layer(policy, PowerLimit) for policy in self.scheduler.policies.values()]
        cut = any(ration.cutting for ration in rations if ration is not None)
        scopes = self.budgets.keepers.keys()
        self.warned += self.budgets.observe(self.epoch_s + now_s, self._meters(), self._owed(scopes), limited)
        terms = self.budgets.terms(self.epoch_s + now_s, self._nodes.tail_watts())
        self._pending.append(terms)
        self._wake_s = now_s
        self.ticks.append(Tick(now_s, self.meter.joules, terms.price, bool(limited), cut, self.waiting))
        self._tick_s += TICK_S

    def _owed(self, scopes: Iterable[str]) -> dict[str, list[float]]:
        now = self._progress()
        advance(self.scheduler.ledger.rows["done"], now.slots, now.done)
        return owed_j(self.scheduler, self.prices, scopes, self.now_s)

    def _meters(self) -> dict[str, float]:
        """By scope, joules so far: a project's are those of its jobs, running ones included."""
        meters = {"": self.meter.joules}
        if self.budgets.keepers.keys() - {""}:
            energy_j = [*self.energy_j]
            for run in self.runs.values():
                paused_s = min(self.now_s, run.resume_s) - run.since_s
                energy_j[run.job] += run.paused_w * paused_s + run.power_w * max(0.0, self.now_s - run.resume_s)
            for job, joules in zip(self.jobs, energy_j, strict=True):
                if job.project:
                    meters[job.project] = meters.get(job.project, 0.0) + joules
        return meters
