"""Whatever is ordered, whoever dies and whenever the controller is killed: gangs end up where they were ordered to.

`FakeEngine.launch` itself asserts that no GPU is given to a rank while another rank is on it, and that epochs never go
back.
"""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from powerflow.api.job_spec import JobSpec
from powerflow.device.protocol import Place
from powerflow.engine.protocol import RankSpec
from powerflow.gangs.machine import ACTIVE, TABLE, GangState
from powerflow.gangs.state_file import GangRecord
from powerflow.gangs.types import DesiredState, GangCompleted, GangFailed, Vacated
from tests.gangs.bench import Bench, spec_of
from tests.gangs.fake_engine import Player, Script
from tests.gangs.fake_rank import Habits
from tests.slow import examples

SLOTS: list[Place] = [(node, gpu) for node in "ab" for gpu in range(3)]
SPECS: dict[str, JobSpec] = {
    "p": spec_of(),
    "q": spec_of(),
    "r": spec_of(rescale="restart", progress=r"step (?P<step>\d+)"),
}
SUBSETS = st.sets(st.sampled_from(SLOTS), max_size=len(SLOTS))


#: By state of a gang, those that a new controller may find in its record.
FOUND = {
    **{state: {GangState.FORMING} for state in ACTIVE},
    GangState.WAITING: {GangState.STOPPING},
    GangState.STOPPING: {GangState.STOPPING},
    GangState.FINISHING: {GangState.FINISHING},
    GangState.KILLING: {GangState.KILLING},
    GangState.FAILING: {GangState.FAILING},
    GangState.IDLE: {GangState.STOPPING, GangState.KILLING},
    GangState.COMPLETED: {GangState.FINISHING},
    GangState.FAILED: {GangState.FAILING},
}


class Cluster(RuleBasedStateMachine):
    """A controller that gives no GPU to two jobs, tries again what failed, and forgets what has ended."""

    @initialize(steps_total=st.sampled_from([30, 100_000]), seed=st.integers(0, 5))
    def begin(self, steps_total: int, seed: int) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.bench = Bench(Path(self.place.name))
        self.steps_total = steps_total
        self.seed = seed
        self.bench.engine.play = self.play
        self.orders: dict[str, DesiredState] = {}
        self.over: dict[str, type] = {}
        self.killed: set[str] = set()
        self.frail = True

    def play(self, spec: RankSpec) -> Player:
        record = GangRecord.load(self.bench.directory / "gangs" / f"{spec.name.gang}.json")
        assert str(spec.name) in record.ranks, "launched before it was written down"
        dice = zlib.crc32(f"{self.seed} {spec.name}".encode()) if self.frail else 1
        if dice % 5 == 0:
            self.bench.engine.stubborn.add(spec.name)
        if spec.name.gang == "r":
            return Script(self.steps_total, line="step {turn}\n")
        habits = Habits(
            builds=dice % 7,
            lingers=None if dice % 11 == 0 else dice % 3,
            crashes_building=dice % 13 == 0,
            hangs_at=5 if dice % 17 == 0 else None,
        )
        return self.bench.engine.fake_rank(spec, self.steps_total, habits)

    def order(self, job: str, slots: set[Place]) -> None:
        nodes = sorted({node for node, _ in slots})
        placement = tuple((node, tuple(sorted(gpu for at, gpu in slots if at == node))) for node in nodes)
        epoch = self.orders[job].epoch + 1 if job in self.orders else 1
        self.killed.discard(job)
        self.orders[job] = DesiredState(job, epoch, SPECS[job], placement)

    def wanted(self, job: str) -> set[Place]:
        gone = job not in self.orders or job in self.over or job in self.killed
        return set() if gone else set(self.orders[job].slots())

    def turn(self) -> None:
        for event in self.bench.turn():
            if isinstance(event, GangCompleted):
                assert event.job_id not in self.over
                self.over[event.job_id] = GangCompleted
            elif isinstance(event, GangFailed) and event.epoch == self.orders[event.job_id].epoch:
                assert not self.bench.engine.running(event.job_id)
                self.order(event.job_id, self.wanted(event.job_id))
                self.bench.gangs.apply([self.orders[event.job_id]])
            elif isinstance(event, Vacated):
                assert not self.bench.engine.running(event.job_id)

    @rule(first=SUBSETS, second=SUBSETS, which=st.permutations(sorted(SPECS)))
    def rearrange(self, first: set[Place], second: set[Place], which: list[str]) -> None:
        one, two, three = which
        shares = {one: first, two: second - first, three: set(SLOTS) - first - second}
        fresh = [
            job
            for job in shares
            if job not in self.over and (job not in self.orders or shares[job] != self.wanted(job))
        ]
        for job in fresh:
            self.order(job, shares[job])
        self.bench.gangs.apply([self.orders[job] for job in fresh])

    @rule(job=st.sampled_from(sorted(SPECS)), slots=SUBSETS)
    def move(self, job: str, slots: set[Place]) -> None:
        fresh = slots - {slot for other in SPECS if other != job for slot in self.wanted(other)}
        if job not in self.over and (job not in self.orders or fresh != self.wanted(job)):
            self.order(job, fresh)
            self.bench.gangs.apply([self.orders[job]])

    @rule(job=st.sampled_from(sorted(SPECS)))
    def kill_job(self, job: str) -> None:
        if job in self.orders and job not in self.over:
            self.killed.add(job)
            self.bench.gangs.kill(job)

    @rule(turns=st.integers(1, 12))
    def wait(self, turns: int) -> None:
        for _ in range(turns):
            self.turn()

    @rule(pick=st.integers(0, 100), code=st.sampled_from([-9, 1, 0, None]))
    def die(self, pick: int, code: int | None) -> None:
        running = [name for name in self.bench.engine.running() if name.gang not in self.over]
        if running:
            name = running[pick % len(running)]
            # a script's rank that ends well is waited for by nobody: its peers are the script's business
            self.bench.engine.end(name, 1 if code == 0 and name.gang == "r" else code)

    @precondition(lambda self: self.orders)
    @rule()
    def kill_controller(self) -> None:
        launches = list(self.bench.engine.launches)
        self.bench.restart(*(order for job, order in self.orders.items() if job not in self.over))
        assert self.bench.engine.launches == launches
        for job in self.killed:  # the store remembers it, too: it may have been asked for a moment before
            self.bench.gangs.kill(job)

    @invariant()
    def no_gpu_is_shared(self) -> None:
        if not hasattr(self, "bench"):
            return
        taken = [slot for job in SPECS for slot in self.bench.engine.placed(job)]
        assert len(taken) == len(set(taken))

    @invariant()
    def a_new_controller_would_find_the_state(self) -> None:
        if not hasattr(self, "bench"):
            return
        for gang in self.bench.gangs._gangs.values():
            after = TABLE[GangState.ADOPTED, gang._adopted()].state
            assert gang.state is GangState.ADOPTED or after in FOUND[gang.state], (gang.state, gang.record)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.frail = False
        for _ in range(1500):
            self.turn()
            if (
                all(self.bench.engine.placed(job) == self.wanted(job) for job in SPECS)
                and self.bench.gangs.troubles() == {}
            ):
                break
        else:
            state = {job: (self.bench.engine.placed(job), self.wanted(job), self.over.get(job)) for job in SPECS}
            raise AssertionError(f"not as ordered: {state}; {self.bench.events[-5:]}")
        self.bench.gangs.close()
        self.place.cleanup()


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=examples(60), stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(10))
def test_long_lives_end_where_they_were_ordered_to(seed: int) -> None:
    """Of up to 40 events, which hypothesis seldom draws: so a gang is asked for something in each of its states."""
    random = Random(seed)
    cluster = Cluster()
    cluster.begin(random.choice([10, 30, 100_000]), random.randrange(1000))
    for _ in range(random.randrange(20, 40)):
        match random.choice("mmrwwddkc"):
            case "m":
                cluster.move(random.choice(sorted(SPECS)), set(random.sample(SLOTS, random.randrange(5))))
            case "r":
                first, second = (set(random.sample(SLOTS, random.randrange(6))) for _ in range(2))
                cluster.rearrange(first, second, random.sample(sorted(SPECS), 3))
            case "w":
                cluster.wait(random.randrange(1, 15))
            case "d":
                cluster.die(random.randrange(100), random.choice([-9, 1, 0, None]))
            case "k" if random.random() < 0.3:
                cluster.kill_job(random.choice(sorted(SPECS)))
            case "c" if cluster.orders:
                cluster.kill_controller()
        cluster.no_gpu_is_shared()
        cluster.a_new_controller_would_find_the_state()
    cluster.teardown()
