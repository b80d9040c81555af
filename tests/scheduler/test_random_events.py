"""In whatever order things happen, the scheduler stays sound: every built-in policy, every event, many times over."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from powerflow.cluster.occupancy import NodeShare
from powerflow.cluster.spec import Node, NodeGroup, build_cluster
from powerflow.cost.table import CostTable
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.policy.registry import BUILT_IN, load
from powerflow.scheduler.cap import CLUSTER, PowerCap, Scope
from powerflow.scheduler.events import (
    Adopted,
    Cancelled,
    Completed,
    CompletedEarlier,
    CostLearned,
    Event,
    Failed,
    GpuFailed,
    GpuRecovered,
    Leaving,
    ManagedProjects,
    NodeAdded,
    NodeDrained,
    NodeFailed,
    NodeGone,
    NodeRecovered,
    NodeUnreachable,
    PauseMeasured,
    PowerCapLifted,
    PowerCapSet,
    PowerMetered,
    Progress,
    SharesSet,
    SizeLearned,
    Submitted,
    WorkLost,
)
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.scheduler import Scheduler
from powerflow.testing.invariants import check
from tests.scheduler.situations import IDLE_W, axes
from tests.slow import examples

POLICIES = sorted(BUILT_IN)
OVERLAYS = ("", "", "", "+clock:0.7", "+zeus:0.5")
NAMES = st.sampled_from([f"job-{i}" for i in range(12)])
CLASSES = st.sampled_from(["a", "b", "c", "nobody described"])
PROJECTS = st.sampled_from(["", "vision", "speech"])
COUNTS = {"A100": (1, 2, 3, 4, 8), "T4": (1, 2, 4)}
NODES = st.sampled_from(["a100-0", "a100-1", "t4-0", "t4-1", "no such node"])
SCOPES = st.sampled_from(
    [
        CLUSTER,
        Scope("nodes:a100-0", frozenset({"a100-0"})),
        Scope("row:a100", frozenset({"a100-0", "a100-1"})),
        Scope("row:ends", frozenset({"a100-1", "t4-0"})),
    ]
)
ALWAYS_ON = NodeGroup("A100", 2, 4)
SLEEPY = NodeGroup("A100", 2, 4, idle_w=300.0, can_sleep=True, sleep_w=20.0, wake_s=90.0)
OTHER = NodeGroup("T4", 2, 2)
ITERATIONS = st.one_of(st.floats(0.0, 1e6), st.sampled_from([0.0, 1e-9, 1.0, 1e12]))


@st.composite
def tables(draw: st.DrawFn, gpu_type: str) -> CostTable:
    """A belief, right or wrong: any shape of scaling, some counts or all of them impossible."""
    counts = np.array(COUNTS[gpu_type])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    times = rng.lognormal(0, 3, (len(counts), 2)) * draw(st.sampled_from([1e-6, 1.0, 1e6]))
    times[rng.random(len(counts)) < draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))] = np.inf
    watts = counts[:, None] * rng.uniform(10.0, 400.0, (len(counts), 2))
    ones = np.ones(len(counts), np.int64)
    return CostTable(times, times * rng.uniform(0.8, 2.0), watts, ones, ones)


class AnythingHappens(RuleBasedStateMachine):
    """Events are collected by the rules, and handed over by `step`, one by one or several together."""

    scheduler: Scheduler
    now_s: float
    events: list[Event]

    @initialize(
        policy=st.sampled_from(POLICIES),
        overlay=st.sampled_from(OVERLAYS),
        groups=st.sampled_from([(ALWAYS_ON,), (SLEEPY,), (ALWAYS_ON, OTHER), (SLEEPY, OTHER)]),
        price=st.sampled_from([0.0, 1e-4, 1e-2]),
        sizes_known=st.booleans(),
        ruled=st.booleans(),
    )
    def begin(
        self,
        policy: str,
        overlay: str,
        groups: tuple[NodeGroup, ...],
        price: float,
        sizes_known: bool,
        ruled: bool,
    ) -> None:
        """A policy on an empty cluster, by itself or under all that administrators are promised."""
        chosen = load(policy + overlay)
        if ruled:
            chosen = with_rules(chosen)
        spec = build_cluster(groups, source="test")
        pools = {name: axes(name, COUNTS[name], nodes[0].gpus) for name, nodes in spec.pools().items()}
        self.scheduler = Scheduler(
            spec,
            pools,
            dict.fromkeys(pools, IDLE_W),
            chosen,
            energy_price=price,
            sizes_known=sizes_known or chosen.needs_sizes,
        )
        self.now_s = 0.0
        self.events = []

    @rule(after_s=st.sampled_from([0.0, 1.0, 59.0, 60.0, 61.0, 600.0, 1e5]))
    def step(self, after_s: float) -> None:
        """Hand over what happened, or nothing; then everything must be in order."""
        self.now_s += after_s
        before, adopted = self._held(), any(isinstance(event, Adopted) for event in self.events)
        plan = self.scheduler.step(self.now_s, self.events)
        self.events = []
        check(self.scheduler, plan)
        if plan.early and not adopted:
            names = {change.job_id for change in plan.changes}
            kept = {name: has for name, has in self._held().items() if name not in names}
            assert kept.items() <= before.items(), "between decisions a running job is changed"

    def _held(self) -> dict[str, tuple[object, ...]]:
        """By job that runs: where it stands, and its clock."""
        rows, pools = self.scheduler.ledger.rows, self.scheduler.pools.values()
        held = ((name, slot) for name, slot in self.scheduler.ledger.slot_of.items() if rows["gpus"][slot])
        return {
            name: (*(pool.occupancy.placement(slot) for pool in pools if slot in pool.active), int(rows["clock"][slot]))
            for name, slot in held
        }

    @rule(
        name=NAMES,
        cost_class=CLASSES,
        size=ITERATIONS,
        gpus=st.sampled_from([1, 2, 3, 4, 5, 8, 16]),
        least=st.sampled_from([1, 1, 1, 2, 4, 16]),
        most=st.sampled_from([1, 2, 8, 64]),
        weight=st.sampled_from([0.1, 1.0, 1.0, 10.0]),
        pause_s=st.sampled_from([0.0, 30.0, 3000.0]),
        gpu_type=st.sampled_from([None, None, None, "A100", "T4", "H100"]),
        size_known=st.sampled_from([True, True, False]),
        guessed=st.booleans(),
        ago_s=st.sampled_from([0.0, 0.0, 3600.0, 1e7, -3600.0]),
        project=PROJECTS,
        keeps=st.sampled_from([False, False, True]),
        promise=st.sampled_from([(False, math.inf), (False, math.inf), (False, 0.2), (True, 0.1), (True, math.inf)]),
        counts=st.sampled_from(
            [frozenset(), frozenset(), frozenset({1, 2, 4, 8}), frozenset({2, 3}), frozenset({1, 3, 8})]
        ),
    )
    def submit(
        self,
        name: str,
        cost_class: str,
        size: float,
        gpus: int,
        least: int,
        most: int,
        weight: float,
        pause_s: float,
        gpu_type: str | None,
        size_known: bool,
        guessed: bool,
        ago_s: float,
        project: str,
        keeps: bool,
        promise: tuple[bool, float],
        counts: frozenset[int],
    ) -> None:
        """Also twice under one name, for more GPUs than there are, for a type nobody has, without a size; long ago."""
        most = max(least, most)
        only = tuple(sorted(counts)) if counts else None
        least, most = (only[0], only[-1]) if only else (least, most)
        args = (
            name,
            self.now_s - ago_s,
            cost_class,
            size,
            gpus,
            least,
            most,
            weight,
            project,
            gpu_type,
            *promise,
            keeps,
        )
        job = Job(*args, gpus_allowed=only)
        self.events.append(Submitted(job, size if size_known else None, pause_s, guessed))

    @rule(name=NAMES, done=ITERATIONS)
    def set_back(self, name: str, done: float) -> None:
        """A script begins again."""
        self.events.append(WorkLost(name, done))

    @rule(name=NAMES)
    def cancel(self, name: str) -> None:
        """Also of jobs that wait, have ended, or never were."""
        self.events.append(Cancelled(name))

    @rule(name=NAMES, size=st.one_of(ITERATIONS, st.sampled_from([math.nan, math.inf])))
    def complete(self, name: str, size: float) -> None:
        """Also of jobs that wait, have ended, or never were; nobody need have counted."""
        self.events.append(Completed(name, size))

    @rule(
        cost_class=CLASSES,
        size=ITERATIONS,
        gpus=st.sampled_from([1, 2, 3, 16]),
        project=PROJECTS,
        gpu_type=st.sampled_from([None, "T4", "H100"]),
        counts=st.sampled_from([None, (1, 2), (3,)]),
        times=st.sampled_from([1, 30]),
    )
    def recall(
        self,
        cost_class: str,
        size: float,
        gpus: int,
        project: str,
        gpu_type: str | None,
        counts: tuple[int, ...] | None,
        times: int,
    ) -> None:
        """Jobs completed under an earlier controller."""
        least, most = (counts[0], counts[-1]) if counts else (1, 16)
        job = Job("old", 0.0, cost_class, size, gpus, least, most, 1.0, project, gpu_type, gpus_allowed=counts)
        self.events += [CompletedEarlier(job)] * times

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        """Also who waits, or has left before."""
        self.events.append(Leaving(name))

    @rule(name=NAMES, pause_s=st.sampled_from([0.0, 0.05, 600.0]))
    def pause(self, name: str, pause_s: float) -> None:
        """Rescales turn out to cost more or less."""
        self.events.append(PauseMeasured(name, pause_s))

    @rule(name=NAMES, retry=st.booleans(), done=ITERATIONS)
    def fail(self, name: str, retry: bool, done: float) -> None:
        """Runs break off."""
        self.events.append(Failed(name, retry, done))

    @precondition(lambda self: self.scheduler.submitted > 0)
    @rule(slot=st.integers(0, 5), other=st.sampled_from([0, 1, 63, 64, -1, 10**6]), done=ITERATIONS)
    def progress(self, slot: int, other: int, done: float) -> None:
        """Reports that are late, repeated, go backwards, or speak of a job that has ended or of none."""
        self.events.append(Progress(np.array([slot, other]), np.array([done, np.nan if other == 1 else done / 2])))

    @rule(
        name=NAMES,
        gpu_type=st.sampled_from([*COUNTS, "H100"]),
        nodes=st.lists(NODES, min_size=1, max_size=2, unique=True),
        gpus=st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True),
        clock_mhz=st.sampled_from([0.0, 700.0, 1e9]),
    )
    def adopt(self, name: str, gpu_type: str, nodes: list[str], gpus: list[int], clock_mhz: float) -> None:
        """Jobs are found running: also unknown ones, on GPUs that are taken or are not there."""
        placement = tuple(NodeShare(node, tuple(sorted(gpus))) for node in nodes)
        self.events.append(Adopted(name, gpu_type, placement, clock_mhz))

    @rule(name=NAMES, size=ITERATIONS)
    def resize(self, name: str, size: float) -> None:
        """A job turns out larger or smaller."""
        self.events.append(SizeLearned(name, size))

    @rule(cost_class=CLASSES, gpu_type=st.sampled_from(sorted(COUNTS)), data=st.data())
    def learn(self, cost_class: str, gpu_type: str, data: st.DataObject) -> None:
        """The belief changes."""
        self.events.append(CostLearned(cost_class, gpu_type, data.draw(tables(gpu_type))))

    @rule(node=NODES, kind=st.sampled_from([NodeFailed, NodeDrained, NodeRecovered]))
    def node(self, node: str, kind: type[NodeFailed] | type[NodeDrained] | type[NodeRecovered]) -> None:
        """Nodes fail, drain and come back; also twice, also those that are not ours."""
        self.events.append(kind(node))

    @rule(node=st.sampled_from(["a100-0", "a100-1", "new"]), gpus=st.integers(1, 4), goes=st.booleans())
    def joins(self, node: str, gpus: int, goes: bool) -> None:
        self.events.append(NodeGone(node) if goes else NodeAdded(Node(7, node, "A100", gpus, "rack-7")))

    @rule(node=NODES, stay=st.frozensets(NAMES, max_size=3), absent=st.frozensets(NAMES, max_size=2))
    def silence(self, node: str, stay: frozenset[str], absent: frozenset[str]) -> None:
        self.events.append(NodeUnreachable(node, stay, absent))

    @rule(node=NODES, gpu=st.integers(-1, 4), kind=st.sampled_from([GpuFailed, GpuFailed, GpuRecovered]))
    def gpu(self, node: str, gpu: int, kind: type[GpuFailed] | type[GpuRecovered]) -> None:
        """Single GPUs leave service and come back; also twice, also those that are not there."""
        self.events.append(kind(node, gpu))

    @rule(
        price=st.sampled_from([0.0, 1e-5, 1e-3, 1.0]),
        by_project=st.dictionaries(PROJECTS, st.sampled_from([0.0, 1e-3, 1.0]), max_size=2),
        limit_w=st.dictionaries(PROJECTS, st.sampled_from([0.0, 200.0, 1000.0, 5000.0]), max_size=2),
    )
    def terms(self, price: float, by_project: dict[str, float], limit_w: dict[str, float]) -> None:
        """Energy gets dearer or cheaper, and budgets allow so many watts, of projects that have jobs or none."""
        self.events.append(EnergyTerms(price, by_project, limit_w))

    @rule(on_others=st.booleans(), on=st.dictionaries(PROJECTS, st.booleans(), max_size=2))
    def act(self, on_others: bool, on: dict[str, bool]) -> None:
        """PowerFlow is let in, or asked to keep out."""
        self.events.append(ManagedProjects(on_others, on))

    @rule(shares=st.dictionaries(PROJECTS, st.sampled_from([0.5, 1.0, 3.0]), max_size=2))
    def share(self, shares: dict[str, float]) -> None:
        """Operators set what projects are entitled to."""
        self.events.append(SharesSet(shares))

    @rule(
        watts=st.sampled_from([1.0, 700.0, 1000.0, 1500.0, 2500.0]),
        scope=SCOPES,
        after_s=st.sampled_from([-100.0, 0.0, 90.0]),
        for_s=st.sampled_from([50.0, 5000.0, math.inf]),
        deadline_s=st.sampled_from([None, None, 20.0]),
        ramp_w_per_s=st.sampled_from([math.inf, 1.0, 50.0]),
    )
    def cap(
        self, watts: float, scope: Scope, after_s: float, for_s: float, deadline_s: float | None, ramp_w_per_s: float
    ) -> None:
        """Caps that can be met and others, on parts that lie in each other, also on a node that is not there."""
        start_s = self.now_s + after_s
        deadline_s = None if deadline_s is None else start_s + deadline_s
        self.events.append(PowerCapSet(PowerCap(watts, scope, start_s, start_s + for_s, deadline_s, ramp_w_per_s)))

    @rule(scope=SCOPES)
    def lift(self, scope: Scope) -> None:
        """Caps end early, also where there are none."""
        self.events.append(PowerCapLifted(scope.name))

    @rule(
        watts=st.floats(0.0, 5000.0),
        readings=st.lists(st.tuples(st.integers(0, 63), st.floats(0.0, 2000.0), st.booleans()), max_size=4),
    )
    def meter(self, watts: float, readings: list[tuple[int, float, bool]]) -> None:
        """Meters that say anything, also of jobs that ended or wait."""
        slots = [slot for slot, *_ in readings]
        job_w = np.array([w for _, w, _ in readings], float)
        steady = np.array([is_steady for *_, is_steady in readings], bool)
        self.events.append(PowerMetered(watts, np.array(slots, np.int64), job_w, steady))


AnythingHappens.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
TestAnythingHappens = AnythingHappens.TestCase
