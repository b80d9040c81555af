"""A simulation whose price of energy a governor sets: the code that the live controller uses, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from powerflow.energy.budget import Warned
from powerflow.energy.owed import owed
from powerflow.energy.response import Response
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.events import EnergyPriceSet
from powerflow.scheduler.ledger import advance
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


class Rationed:
    """A policy under a limit in watts: joules get dearer until it holds, then GPUs fewer.

    Args:
        inner: Who decides.
        dearest: The price at which the dearest joule stands.
    """

    def __init__(self, inner: Policy, dearest: float) -> None:
        self.inner = inner
        self.dearest = dearest
        self.name = inner.name
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s
        self.limit_w = np.inf  # above idle
        self.binding = False  # whether the last answer is another for it
        self.cutting = False  # and has fewer GPUs at work than the policy would have at the dearest price

    def decide(self, view: View) -> Allocation:
        """The inner policy's answer at the lowest price, or else on the most GPUs, at which the limit holds."""
        answer = self.inner.decide(view)
        self.binding = added_w(view, answer) > self.limit_w
        self.cutting = False
        return self._ration(view) if self.binding else answer

    def _ration(self, view: View) -> Allocation:
        dear = replace(view, energy_price=max(self.dearest, view.energy_price))
        answer = self.inner.decide(dear)
        if added_w(view, answer) <= self.limit_w:
            low, high = max(view.energy_price, self.dearest * 1e-4), dear.energy_price
            for _ in range(5):
                middle = float(np.sqrt(low * high))
                tried = self.inner.decide(replace(view, energy_price=middle))
                if added_w(view, tried) <= self.limit_w:
                    answer, high = tried, middle
                else:
                    low = middle
            return answer
        self.cutting = True
        answer, fits, too_many = view.nothing(), 0, view.capacity
        while too_many - fits > 1:
            middle_gpus = (fits + too_many) // 2
            tried = self.inner.decide(replace(dear, capacity=middle_gpus))
            if added_w(view, tried) <= self.limit_w:
                answer, fits = tried, middle_gpus
            else:
                too_many = middle_gpus
        return answer


def added_w(view: View, answer: Allocation) -> float:
    """Watts above idle that an allocation is believed to draw."""
    runs = answer.gpus > 0
    gpus = answer.gpus[runs]
    power_w = view.power_w[view.jobs["cost"][runs], view.count_index[gpus], answer.clock[runs]]
    return float(np.sum(power_w - view.idle_w * gpus))


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
        super().__init__(workload, Rationed(policy, prices[-1]), belief=belief, world=world)
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
        limited = any(policy.binding for policy in self._rations())
        cut = any(policy.cutting for policy in self._rations())
        self.warned += self.keeper.observe(self.epoch_s + now_s, self.meter.joules, self._owed(), limited)
        price = self.keeper.price
        idle_w = self._nodes.tail_watts()
        limit_w = self.keeper.limit_w(self.epoch_s + now_s) - idle_w
        for policy in self._rations():
            policy.limit_w = limit_w
        too_much = self.meter.watts - idle_w > limit_w
        if abs(price - self.scheduler.energy_price) > 0.02 * self.scheduler.energy_price or limited or too_much:
            self._pending.append(EnergyPriceSet(price))
            self._wake_s = now_s
        self.ticks.append(Tick(now_s, self.meter.joules, price, limited, cut, self.waiting))
        self._tick_s += TICK_S

    def _rations(self) -> list[Rationed]:
        return [policy for policy in self.scheduler.policies.values() if isinstance(policy, Rationed)]

    def _owed(self) -> list[float]:
        total = np.zeros(len(self.prices))
        now = self._progress()
        advance(self.scheduler.ledger.rows["done"], now.slots, now.done)
        for pool in self.scheduler.pools.values():
            slots = np.array(pool.active, np.int64)
            if not len(slots):
                continue
            view = pool.view(self.scheduler.ledger, slots, self.now_s, 0.0, True)
            jobs = view.jobs
            total += owed(
                self.prices,
                jobs["remaining"],
                jobs["weight"],
                jobs["gpus_min"],
                jobs["gpus_max"],
                jobs["cost"],
                view.gpu_counts,
                view.step_time_s,
                view.power_w,
                view.idle_w,
            )
        return [float(joules) for joules in total]
