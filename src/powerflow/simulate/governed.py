"""A simulation whose price of energy a governor sets: the code that the live controller uses, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from powerflow.energy.budget import Warned
from powerflow.energy.response import Response
from powerflow.energy.terms import EnergyTerms
from powerflow.policy.protocol import Policy
from powerflow.scheduler.ledger import advance
from powerflow.scheduler.owing import owed_j
from powerflow.scheduler.rationed import Rationed
from powerflow.simulate.belief import Belief
from powerflow.simulate.run import Simulation, World
from powerflow.simulate.workload import Workload

DAY_S = 86_400.0

#: The meter is read, and the price set, this often.
TICK_S = 1800.0


class Keeper(Protocol):
    """What sets the price: a `powerflow.energy.governor.Governor`, or a constant to compare it with."""

    @property
    def price(self) -> float:
        """λ_E, seconds per joule."""
        ...

    def observe(self, now_s: float, meter_j: float, owed_j: list[float], limited: bool) -> list[Warned]:
        """As of `Governor.observe`."""
        ...

    def learn(self, day: Response) -> None:
        """As of `Governor.learn`."""
        ...

    def limit_w(self, now_s: float) -> float:
        """As of `Governor.limit_w`."""
        ...


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
    """A simulation that reads its meter every half hour and does as a governor says.

    Args:
        workload, policy, belief, world: As of `Simulation`.
        keeper: Sets price and limit.
        prices: Its prices, for what is owed.
        epoch_s: Unix seconds of the simulation's 0.
        day: What the arrivals of a day, counted from 0, would cost by the belief; asked when it is over.
    """

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        keeper: Keeper,
        *,
        prices: tuple[float, ...],
        epoch_s: float,
        day: Callable[[int], Response],
        belief: Belief | None = None,
        world: World | None = None,
    ) -> None:
        super().__init__(workload, Rationed(policy), belief=belief, world=world)
        self.keeper = keeper
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
            self.keeper.learn(self.day(round(now_s / DAY_S) - 1))
        rations = [policy for policy in self.scheduler.policies.values() if isinstance(policy, Rationed)]
        limited = bool(self.scheduler.limited)
        cut = any(policy.cutting for policy in rations)
        self.warned += self.keeper.observe(self.epoch_s + now_s, self.meter.joules, self._owed(), limited)
        price = self.keeper.price
        idle_w = self._nodes.tail_watts()
        limit_w = self.keeper.limit_w(self.epoch_s + now_s) - idle_w
        self._pending.append(EnergyTerms(price, limit_w={"": limit_w}))
        self._wake_s = now_s
        self.ticks.append(Tick(now_s, self.meter.joules, price, limited, cut, self.waiting))
        self._tick_s += TICK_S

    def _owed(self) -> list[float]:
        now = self._progress()
        advance(self.scheduler.ledger.rows["done"], now.slots, now.done)
        return owed_j(self.scheduler, self.prices, [""], self.now_s)[""]
