"""Small clusters, tables and schedulers whose decisions can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.policy.registry import load
from powerflow.scheduler.events import CostLearned, Event, Progress, Submitted
from powerflow.scheduler.plan import Plan
from powerflow.scheduler.scheduler import Scheduler
from powerflow.testing.invariants import check

IDLE_W = 50.0
CLOCKS_MHZ = (700.0, 1400.0)


def axes(gpu_type: str = "A100", counts: Sequence[int] = (1, 2, 4, 8), gpus_per_node: int = 4) -> Axes:
    """Powers of two, at half and full clock."""
    return Axes(gpu_type, gpus_per_node, np.array(counts, np.int64), np.array(CLOCKS_MHZ))


def table(step_s: Sequence[float], watts: Sequence[float] = (100.0, 250.0), slow: float = 1.25) -> CostTable:
    """A class by its step time per count at full clock.

    Args:
        step_s: ``[N]`` seconds per iteration at full clock; ``inf`` where it cannot run.
        watts: Of one GPU at half and at full clock.
        slow: How many times as long a step takes at half clock.
    """
    full = np.array(step_s, float)
    times = np.stack([full * slow, full], axis=1)
    counts = np.array([1, 2, 4, 8, 16][: len(full)])
    power = counts[:, None] * np.array(watts, float)[None, :]
    ones = np.ones(len(full), np.int64)
    return CostTable(times, times * 1.1, power, ones, ones)


def first_counts(made: CostTable, counts: int) -> CostTable:
    """The table of a smaller pool."""
    return CostTable(
        made.step_time_s[:counts],
        made.spread_step_time_s[:counts],
        made.power_w[:counts],
        made.local_batch[:counts],
        made.accumulation[:counts],
    )


#: Perfect scaling: 8 GPU-seconds per iteration on any count.
LINEAR = table([8.0, 4.0, 2.0, 1.0])
#: A second GPU saves 10 %, more save nothing.
FLAT = table([1.0, 0.9, 0.9, 0.9])


def job(name: str, iterations: float = 1000.0, **more: object) -> Job:
    """A job of class ``linear`` that asks for one GPU and can use eight."""
    fields: dict[str, object] = {"submit_s": 0.0, "cost_class": "linear", "gpus": 1, "gpus_max": 8}
    return Job(id=name, iterations=iterations, **{**fields, **more})  # type: ignore[arg-type]


def submitted(name: str, iterations: float = 1000.0, pause_s: float = 30.0, **more: object) -> Submitted:
    """Its submission, with the truth about its size."""
    return Submitted(job(name, iterations, **more), iterations, pause_s)


class Told:
    """A policy that gives what it was told: (GPUs, clock) by submission number, nothing to those not named."""

    name = "told"
    needs_sizes = False
    period_s: float | None = None

    def __init__(self, answer: Mapping[int, tuple[int, int]] | None = None) -> None:
        self.answer = dict(answer or {})

    def decide(self, view: View) -> Allocation:
        """As told."""
        allocation = view.nothing()
        for row, number in enumerate(view.jobs["id"].tolist()):
            allocation.gpus[row], allocation.clock[row] = self.answer.get(number, (0, 1))
        return allocation


class SchedulerDriver:
    """A scheduler that is checked after every step, with classes ``linear`` and ``flat`` known."""

    def __init__(self, policy: Policy | str, cluster: str = "2x4:A100", **options: float) -> None:
        spec = parse_cluster(cluster)
        sizes = {name: sum(node.gpus for node in nodes) for name, nodes in spec.pools().items()}
        pools = {name: axes(name, [n for n in (1, 2, 4, 8) if n <= gpus]) for name, gpus in sizes.items()}
        chosen = load(policy) if isinstance(policy, str) else policy
        self.scheduler = Scheduler(spec, pools, dict.fromkeys(pools, IDLE_W), chosen, **options)  # type: ignore[arg-type]
        tables = {"linear": LINEAR, "flat": FLAT}
        known = [
            CostLearned(kind, name, first_counts(made, len(pool.gpu_counts)))
            for name, pool in pools.items()
            for kind, made in tables.items()
        ]
        self.scheduler.step(-1000.0, known)

    def at(self, now_s: float, *events: Event) -> Plan:
        """Step to a moment."""
        plan = self.scheduler.step(now_s, events)
        check(self.scheduler, plan)
        return plan

    def tell(self, answer: Mapping[int, tuple[int, int]]) -> None:
        """What the told policy gives from now on."""
        for policy in self.scheduler.policies.values():
            assert isinstance(policy, Told)
            policy.answer = dict(answer)

    def done(self, **iterations: float) -> Progress:
        """A progress report by job name."""
        slots = [self.scheduler.slot(name) for name in iterations]
        return Progress(np.array(slots, np.int64), np.array(list(iterations.values())))

    def row(self, name: str) -> Mapping[str, float]:
        """A job's row in the ledger."""
        rows = self.scheduler.ledger.rows
        return {key: float(rows[key][self.scheduler.slot(name)]) for key in rows.dtype.names or ()}
