"""Whatever breaks, in whatever order: no rank twice, no GPU with two owners, no job lost, nobody healthy touched."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.elastic.mailbox import Phase
from powerflow.engine.protocol import EngineNode, RankName, RankSpec
from powerflow.gangs.machine import ACTIVE
from powerflow.gangs.types import DesiredState, GangCompleted, GangEvent, GangFailed
from tests.gangs.bench import Bench, spec_of
from tests.gangs.fake_engine import FakeEngine, Script
from tests.gangs.fake_rank import FakeRank, Habits
from tests.slow import ALL

NODES = {"a": 4, "b": 4, "c": 4}
TURNS, STEPS = 300, 250
SCRIPTS = ("job3", "job4")
IN_PLACE = spec_of()
SCRIPT = spec_of(rescale="restart", progress=r"step (?P<step>\d+)")


class Breakable(FakeEngine):
    """Engine whose nodes can crash."""

    def crash(self, node: str) -> None:
        """Cut the power of a node."""
        self.cut(node)
        for name in [name for name in self.players if self.specs[name].node == node]:
            del self.players[name]


class World:
    """A cluster, a controller that gives jobs GPUs, and faults."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench(directory)
        self.bench.gangs.close()
        self.engine = self.bench.engine = Breakable(NODES)
        self.engine.kinds = {name: EngineNode(name, gpus, address=f"10.0.0.{gpus}") for name, gpus in NODES.items()}
        self.engine.play = self.play
        self.bench.gangs = self.bench.controller()
        self.epochs: dict[str, int] = {}
        self.desired: dict[str, DesiredState] = {}
        self.done: dict[str, GangCompleted] = {}
        self.crashed: set[str] = set()
        self.steps: dict[RankName, tuple[int, Phase]] = {}
        self.trained: dict[str, int] = {}  # newest group of each job that has trained a step
        for number in range(5):
            self.give(f"job{number}", self.some_gpus(self.random.choice((1, 2, 3))))

    def play(self, spec: RankSpec) -> Script | FakeRank:
        """Run a rank of an in-place job or of a script."""
        if spec.name.gang in SCRIPTS:
            return Script(120, line="step {turn}\n")
        return self.engine.fake_rank(spec, STEPS, Habits(lingers=self.random.choice((0, 0, 3, None))))

    def some_gpus(self, count: int) -> list[tuple[str, int]]:
        """GPUs that no other job shall have."""
        taken = {slot for desired in self.desired.values() for slot in desired.slots()}
        free = [(node, gpu) for node, gpus in NODES.items() for gpu in range(gpus) if (node, gpu) not in taken]
        return self.random.sample(free, min(count, len(free)))

    def give(self, job_id: str, slots: list[tuple[str, int]]) -> None:
        self.epochs[job_id] = self.epochs.get(job_id, 0) + 1
        nodes = sorted({node for node, _ in slots})
        placement = tuple((node, tuple(sorted(gpu for at, gpu in slots if at == node))) for node in nodes)
        spec = SCRIPT if job_id in SCRIPTS else IN_PLACE
        self.desired[job_id] = DesiredState(job_id, self.epochs[job_id], spec, placement)
        self.bench.gangs.apply([self.desired[job_id]])

    def fault(self) -> None:
        """Break or mend something, or give a job other GPUs."""
        node = self.random.choice(list(NODES))
        match self.random.choice(("cut", "cut", "mend", "mend", "crash", "boot", "kill", "move", "move", "controller")):
            case "cut" if node not in self.engine.down:
                self.engine.cut(node)
            case "mend" if node in self.engine.down and node not in self.crashed:
                self.engine.mend(node)
            case "crash" if node not in self.engine.down:
                self.engine.crash(node)
                self.crashed.add(node)
            case "boot" if node in self.crashed:
                self.crashed.discard(node)
                self.engine.boot(node)
            case "kill" if self.engine.running():
                self.engine.end(self.random.choice(self.engine.running()), -9)
            case "move" if self.desired:
                job_id = self.random.choice(list(self.desired))
                self.give(job_id, self.some_gpus(self.random.choice((1, 2, 3))) or list(self.desired[job_id].slots()))
            case "controller":
                self.bench.restart(*self.desired.values())

    def turn(self) -> None:
        before = len(self.engine.signals)
        events = self.bench.turn()
        for name, _ in self.engine.signals[before:]:
            self.check_signal(name)
        self.check()
        for event in events:
            self.hear(event)

    def hear(self, event: GangEvent) -> None:
        """Do as the controller does: try a job again that has failed."""
        if isinstance(event, GangCompleted):
            assert self.done.setdefault(event.job_id, event) == event
            self.desired.pop(event.job_id, None)
        elif (
            isinstance(event, GangFailed) and event.epoch == self.epochs[event.job_id] and event.job_id in self.desired
        ):
            self.give(event.job_id, self.some_gpus(2) or list(self.desired[event.job_id].slots()))

    def check_signal(self, name: RankName) -> None:
        """A rank gets a signal only if its gang does not need it any more, or ends."""
        gang = self.bench.gangs._gangs[name.gang]
        assert gang.state not in ACTIVE or str(name) not in gang.record.members, f"{name} was healthy"

    def check(self) -> None:
        engine = self.engine
        assert len(set(engine.launches)) == len(engine.launches), "a rank was started twice"
        holding = self.bench.gangs.holding()
        for name in engine.really():
            spec = engine.specs[name]
            for gpu in spec.gpus:
                assert holding.get((spec.node, gpu)) == name.gang, f"the GPU of {name} is free"
        for name, player in engine.players.items():
            if isinstance(player, FakeRank):
                step, phase = self.steps.get(name, (0, Phase.STARTING))
                if phase is Phase.SYNCING and player.step == step + 1:
                    newest = self.trained.get(name.gang, 0)
                    at = player.generation if player.phase is not Phase.REGROUPING else newest
                    assert at >= newest, f"{name} trains a step of a group that was replaced"
                    self.trained[name.gang] = at
                self.steps[name] = player.step, player.phase

    def heal(self) -> None:
        """Mend everything, and let all jobs end."""
        for node in list(self.engine.down):
            if node in self.crashed:
                self.engine.boot(node)
            else:
                self.engine.mend(node)
        self.crashed.clear()
        for _ in range(4000):
            if not self.desired:
                return
            self.turn()
        raise AssertionError(f"jobs were lost: {self.desired.keys()}, {self.bench.gangs.troubles()}")


@pytest.fixture
def worlds(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(tmp_path, request.param)
    yield world
    world.bench.gangs.close()


@pytest.mark.parametrize("worlds", range(12 if ALL else 3), indirect=True)
def test_faults_in_any_order(worlds: World) -> None:
    for _ in range(TURNS):
        if worlds.random.random() < 0.12:
            worlds.fault()
        worlds.turn()
    worlds.heal()
    assert set(worlds.done) == {f"job{number}" for number in range(5)}
    assert {worlds.done[f"job{number}"].steps for number in range(3)} == {STEPS}
    for _ in range(200):
        worlds.turn()
    assert not worlds.bench.gangs.holding()
    assert not worlds.engine.really()
    assert all(not status.state.may_run for status in worlds.engine.statuses.values())
