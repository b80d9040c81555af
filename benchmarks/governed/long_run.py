"""A long simulation under a budget, with all it needs: jobs, a belief that is wrong, replays of its days."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.governed.simulation import GovernedSimulation
from powerflow.cost.catalogue import gpu_type
from powerflow.energy.budget import Budget
from powerflow.energy.budgets import Budgets
from powerflow.energy.governor import Governor
from powerflow.energy.price import REPLAYED
from powerflow.energy.response import Response, response
from powerflow.policy.registry import load
from powerflow.scheduler.events import CostLearned
from powerflow.simulate.belief import Belief, Oracle
from powerflow.simulate.day_replay import replay_day
from powerflow.simulate.frontier import natural_price
from powerflow.simulate.workload.workload import Workload

#: Days that are known when it begins.
KNOWN_DAYS = 14


def believed_world(workload: Workload, belief: Belief) -> Workload:
    """The workload as it would be if the belief were true: what a controller can replay."""
    tables = {(learned.cost_class, learned.gpu_type): learned.table for learned in belief.start()}
    sizes = [belief.iterations(number) for number in range(len(workload.jobs))]
    jobs = [
        replace(job, iterations=size) if size is not None else job
        for job, size in zip(workload.jobs, sizes, strict=True)
    ]
    return replace(workload, jobs=jobs, truth=tables)


class Biased(Oracle):
    """Believes every class to be slower or quicker, and hotter or cooler, than it is, by up to a share each.

    Half of the error is common to all classes, as if the meter or a driver were to blame; it does not average out.
    """

    name = "biased"

    def __init__(self, workload: Workload, share: float, seed: int = 0) -> None:
        super().__init__(workload)
        rng = np.random.default_rng([seed, 0xB1A5])
        common = rng.choice([-0.5, 0.5], 2)
        self._start = []
        for (name, card), table in workload.truth.items():
            slow, hot = 1.0 + share * (common + rng.uniform(-0.5, 0.5, 2))
            wrong = replace(
                table,
                step_time_s=table.step_time_s * slow,
                spread_step_time_s=table.spread_step_time_s * slow,
                power_w=table.power_w * hot,
            )
            self._start.append(CostLearned(name, card, wrong))

    def start(self) -> Sequence[CostLearned]:
        """See `Belief`."""
        return self._start


@dataclass(frozen=True, slots=True, eq=False)
class LongRun:
    """Everything but who keeps the budget.

    Attributes:
        workload: Jobs of ``days`` days.
        days: How many.
        epoch_s: Unix seconds of the simulation's 0.
        bias: Share by which the belief is wrong.
        seed: Of the belief.
        responses: Of each day, replayed as the belief has it; None where nothing arrived.
    """

    workload: Workload
    days: int
    epoch_s: float
    bias: float
    seed: int
    responses: Sequence[Response | None] = ()

    @property
    def prices(self) -> tuple[float, ...]:
        """Those of the replays, seconds per joule."""
        scale = natural_price(self.workload)
        return tuple(share * scale for share in REPLAYED)

    @property
    def idle_w(self) -> float:
        """Watts of the cluster with nobody on it, its nodes awake."""
        return sum(node.gpus * gpu_type(node.gpu_type).idle_w + node.idle_w for node in self.workload.cluster.nodes)

    def belief(self) -> Biased:
        """What the scheduler is told."""
        return Biased(self.workload, self.bias, self.seed)

    def replay(self, days: range) -> list[Response | None]:
        """Some days in the believed world."""
        believed = believed_world(self.workload, self.belief())
        return [replay_day(believed, day, self.prices).get("") for day in days]

    def day(self, number: int) -> Response:
        """What is learnt when a day is over; a day without arrivals costs nothing."""
        found = self.responses[number] if number < self.days else None
        return found or replace(self._typical(), joules=(0.0,) * len(REPLAYED), under_way_j=(0.0,) * len(REPLAYED))

    def governor(self, budget: Budget) -> Governor:
        """One for the whole cluster that knows days like the first ones."""
        governor = Governor(budget, self.prices, idle_w=self.idle_w)
        governor.learn(self._typical())
        return governor

    def simulation(self, keeper: Governor) -> GovernedSimulation:
        """A simulation of the cluster under one budget, not yet run."""
        return GovernedSimulation(
            self.workload,
            load("prices"),
            Budgets({"": keeper}),
            prices=self.prices,
            epoch_s=self.epoch_s,
            day=lambda number: {"": self.day(number)},
            belief=self.belief(),
        )

    def _typical(self) -> Response:
        """The mean of the first days, as if there had been such before."""
        known = [found for found in self.responses[:KNOWN_DAYS] if found]
        columns = [(r.joules, r.full_w, r.under_way_j) for r in known]
        means = np.mean(columns, axis=0)
        means[[0, 2]] *= len(known) / min(KNOWN_DAYS, self.days)
        return response([(p, *column) for p, column in zip(self.prices, means.T.tolist(), strict=True)])


class Constant(Governor):
    """What a governor is compared with: one price all the time.

    Args:
        run: Whose budget it is to be.
        budget: Kept by the limit in watts, as a governor's.
        price: λ_E, seconds per joule.
        free: No limit either.
    """

    def __init__(self, run: LongRun, budget: Budget, price: float, *, free: bool = False) -> None:
        super().__init__(budget, run.prices, idle_w=run.idle_w)
        self._constant = price
        self._free = free

    @property
    def price(self) -> float:
        """The one."""
        return self._constant

    def limit_w(self, now_s: float) -> float:
        """As of `Governor`, or none."""
        return math.inf if self._free else super().limit_w(now_s)
