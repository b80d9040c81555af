"""Small workloads: by hand, where every second can be worked out, and at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from powerflow.cluster.spec import NodeGroup, build_cluster, parse_cluster
from powerflow.cost.catalogue import gpu_type
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job
from powerflow.policy.protocol import Allocation, View
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.record import Trace, TraceJob

#: Watts of an idle A100, and of a busy one at half and at full clock.
IDLE_W = gpu_type("A100").idle_w
HALF_W, FULL_W = 100.0, 250.0
CLOCKS_MHZ = (705.0, 1410.0)

SLEEPY = NodeGroup("A100", 2, 4, idle_w=300.0, can_sleep=True, sleep_w=20.0, wake_s=90.0)


def table(step_s: Sequence[float], counts: Sequence[int]) -> CostTable:
    """A class by its step time per count at full clock; a quarter longer at half clock, a half longer when spread."""
    full = np.array(step_s, float)
    times = np.stack([full * 1.25, full], axis=1)
    ones = np.ones(len(full), np.int64)
    return CostTable(times, times * 1.5, np.array(counts)[:, None] * np.array([HALF_W, FULL_W]), ones, ones)


def by_hand(jobs: Sequence[Job], cluster: str = "1x8:A100", step_s: Sequence[float] = (8.0, 4.0, 2.0, 1.0)) -> Workload:
    """Jobs of one class, ``linear``, that takes 8 GPU-seconds an iteration on any number of GPUs."""
    spec = parse_cluster(cluster)
    axes, truth = {}, {}
    for name, nodes in spec.pools().items():
        counts = [n for n in (1, 2, 4, 8) if n <= sum(node.gpus for node in nodes)]
        axes[name] = Axes(name, max(node.gpus for node in nodes), np.array(counts), np.array(CLOCKS_MHZ))
        truth["linear", name] = table(step_s[: len(counts)], counts)
    return Workload("by hand", tuple(jobs), spec, axes, truth, {})


def job(name: str, iterations: float, submit_s: float = 0.0, **more: object) -> Job:
    """A job of class ``linear`` that asks for one GPU and can use eight."""
    fields: dict[str, object] = {"cost_class": "linear", "gpus": 1, "gpus_max": 8, "iterations": iterations}
    return Job(id=name, submit_s=submit_s, **{**fields, **more})  # type: ignore[arg-type]


def from_trace(
    seed: int, jobs: int = 12, cluster: str = "2x4:A100", *, longest_s: float = 4000.0, span_s: float = 4000.0
) -> Workload:
    """Jobs at random, with costs from the catalogue."""
    rng = np.random.default_rng(seed)
    submit_s = np.sort(rng.uniform(0, span_s, jobs))
    logged = [
        TraceJob(f"job-{i}", float(s), float(rng.uniform(10, longest_s)), int(rng.choice([1, 1, 2, 4, 8])))
        for i, s in enumerate(submit_s)
    ]
    return build_workload(Trace("random", "test", logged), cluster, seed=seed, most_gpus=8)


@st.composite
def workloads(draw: st.DrawFn, most_jobs: int = 10) -> Workload:
    """Workloads of `from_trace` on one or two pools, or on nodes that sleep; some jobs come together."""
    cluster = draw(st.sampled_from(["1x8:A100", "2x4:A100", "2x4:A100+2x2:T4"]))
    span_s = draw(st.sampled_from([0.0, 500.0, 20_000.0]))
    workload = from_trace(draw(st.integers(0, 2**31)), draw(st.integers(1, most_jobs)), cluster, span_s=span_s)
    if cluster == "2x4:A100" and draw(st.booleans()):
        return dataclasses.replace(workload, cluster=build_cluster([SLEEPY], source=cluster))
    return workload


class Script:
    """A policy that follows a script: (GPUs, clock index) by submission number, as a function of the time.

    Args:
        answer: What to give at a time.
        period_s: How often it is asked.
    """

    name = "script"
    needs_sizes = False

    def __init__(self, answer: Callable[[float], Mapping[int, tuple[int, int]]], period_s: float | None = None) -> None:
        self.answer = answer
        self.period_s = period_s

    def decide(self, view: View) -> Allocation:
        """As the script says."""
        allocation = view.nothing()
        now = self.answer(view.now_s)
        for row, number in enumerate(view.jobs["id"].tolist()):
            allocation.gpus[row], allocation.clock[row] = now.get(number, (0, view.clock_max))
        return allocation


def bytes_of(result: SimulationResult) -> bytes:
    """Everything that must not depend on how or where a run was made."""
    parts = [result.policy, str(result.seed), repr(result.jobs.ids), repr(result.jobs.cost_class)]
    numbers = [result.end_s, result.metered_j, result.idle_j, result.tail_w, float(result.decisions)]
    arrays = [np.array(numbers)]
    for group in (result.jobs, result.timeline, result.segments):
        arrays += [value for name in group.__slots__ if isinstance(value := getattr(group, name), np.ndarray)]
    return "\n".join(parts).encode() + b"".join(array.tobytes() for array in arrays)
