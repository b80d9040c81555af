"""A whole controller in which time passes only when a test says so: a fake engine and ranks, a real store, real clocks
of emulated GPUs."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import structlog

from powerflow.agent.devices import NodeDevices
from powerflow.agent.external import ExternalRanks
from powerflow.agent.metered_engine import MeteredEngine
from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import RecordFilter
from powerflow.api.records import Caller, JobState, Role
from powerflow.api.stages import Stage
from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import gpu_type
from powerflow.device.emulated.gpu import EmulatedGpu, create
from powerflow.device.protocol import Reading
from powerflow.engine.protocol import RankName, RankSpec, RankStatus
from powerflow.gangs.manager import Gangs
from powerflow.live.build import _axes
from powerflow.live.cluster_service import ClusterService
from powerflow.live.controller import Controller
from powerflow.live.controller_settings import ControllerSettings
from powerflow.live.governance.budgets import LiveBudgets
from powerflow.live.governance.cap_record import CapRecords
from powerflow.live.governance.caps import Caps
from powerflow.live.governance.replay_process import Compare, Respond
from powerflow.live.governance.savings import SavingsEstimate
from powerflow.live.governance.shares import Shares
from powerflow.live.governance.signals import Signals
from powerflow.live.governance.stages import Stages
from powerflow.live.governance.step import GovernanceParts
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.decision_log import DecisionLog
from powerflow.policy import registry
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.models import StoredJob
from powerflow.store.store import Store
from powerflow.testing.direct_devices import DirectDevices
from tests.gangs.bench import LIMITS, PYTHON, environment
from tests.gangs.fake_engine import FakeEngine

ADA = Caller("ada", Role.USER)
ROOT = Caller("root", Role.OPERATOR)


class Clocks:
    """`powerflow.device.lease.Clocks` without its files and its watchdog."""

    def __init__(self, gpus: list[EmulatedGpu]) -> None:
        self.gpus = {gpu.uuid: gpu for gpu in gpus}
        self.set_mhz: dict[str, float] = {}
        self.lease_s = 30.0

    def set(self, uuid: str, clock_mhz: float) -> Reading:
        self.gpus[uuid].lock_clock(clock_mhz)
        self.set_mhz[uuid] = clock_mhz
        return self.gpus[uuid].read()

    set_again = set

    def refuses(self, uuid: str) -> bool:
        return False

    def release(self, uuid: str) -> None:
        self.gpus[uuid].unlock_clock()
        self.set_mhz.pop(uuid, None)

    def renew(self) -> frozenset[str]:
        return frozenset(self.set_mhz)

    borrowed = renew

    def release_all(self) -> None:
        for uuid in list(self.set_mhz):
            self.release(uuid)


class NodesEngine(FakeEngine):
    """Its nodes can go; before every launch ``watch`` is told."""

    def __init__(self, nodes: dict[str, int]) -> None:
        super().__init__(nodes)
        self.watch: Callable[[RankSpec], None] = lambda spec: None

    def launch(self, spec: RankSpec) -> RankStatus:
        self.watch(spec)
        return super().launch(spec)

    def lose(self, node: str) -> None:
        """Let a node go, with proof that its ranks do not run."""
        for name in self.running():
            if self.statuses[name].node == node:
                self.end(name, None)
        self.down.add(node)


@cache
def made_database() -> Path:
    """A database whose tables are made, to be copied: to make them takes a process of its own, and a second."""
    path = Path(mkdtemp(prefix="powerflow-tests-")) / "made.db"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    Store(f"sqlite:///{path}").close()
    return path


class Bench:
    """A cluster, and a controller that comes and goes."""

    def __init__(
        self, directory: Path, cluster: str = "2x4:A100", *, energy_price: float = 0.0, **settings: Any
    ) -> None:
        self.energy_price = energy_price
        self.directory = directory
        self.spec = parse_cluster(cluster)
        self.engine = NodesEngine({node.name: node.gpus for node in self.spec.nodes})
        self.steps_total = 40
        self.turn_s = 0.5
        self.engine.play = lambda spec: self.engine.fake_rank(spec, self.steps_total)
        self.offset_s = 0.0  # of the wall clock against the engine's
        self.settings = ControllerSettings(save_s=1.0, **settings)
        self.first = Stage.ENFORCE  # of everybody
        self.respond: Respond | None = None  # replays past days, for budgets
        self.compare: Compare | None = None  # and for what would be saved
        self.owners = 0
        self.boot = "a boot"  # of the machine
        self.store: Store
        if not (directory / "store.db").exists():
            shutil.copyfile(made_database(), directory / "store.db")
        self.start()

    def start(self) -> None:
        """Another controller, in a process of its own as far as anybody can tell."""
        self.owners += 1
        self.store = Store(f"sqlite:///{self.directory / 'store.db'}", wait_s=0.1)
        self.gpus = create(self.directory / "emulated", self.spec.nodes)
        self.axes = {name: _axes(name, nodes) for name, nodes in self.spec.pools().items()}
        self.clocks = Clocks(self.gpus)
        self.devices = NodeDevices(
            self.directory / "device",
            self.gpus,
            machine="machine",
            clocks=self.clocks,  # type: ignore[arg-type]
            clock=lambda: self.engine.now_s,
            boot=self.boot,
        )
        external = ExternalRanks(self.engine, self.directory / "external.json", boot=self.boot)
        metered = MeteredEngine(external, self.devices)
        self.gangs = Gangs(
            metered,
            self.directory,
            environment,
            limits=LIMITS,
            interpreter=PYTHON,
            clock=lambda: self.engine.now_s,
            wall_clock=lambda: 1.7e9 + self.engine.now_s,
        )
        idle_w = {name: gpu_type(name).idle_w for name in self.axes}
        power = ClusterGpus(DirectDevices(self.devices, turns=True), self.store)
        policy = with_rules(registry.load("prices"), interval_s=1.0)
        learning = CostLearning(self.axes)
        signals = Signals(self.store)
        budgets = LiveBudgets(
            self.store,
            self.spec,
            lambda: power.totals_j()[0],
            signals,
            learning,
            self.axes,
            respond=self.respond,
            price=self.energy_price,
        )
        scheduler = Scheduler(self.spec, self.axes, idle_w, policy, interval_s=1.0)
        decision_log = DecisionLog(self.store, learning, scheduler)
        stages = Stages(self.store, lambda: decision_log.calibrations, self.first)
        governance = GovernanceParts(
            Caps(self.store, scheduler.nodes, power, CapRecords(self.directory / "caps")),
            Shares(self.store),
            signals,
            budgets,
            stages,
            SavingsEstimate(self.store, self.spec, self.axes, learning, stages, self.compare, lambda: 0.0),
            decision_log,
        )
        self.controller = Controller(
            scheduler,
            self.store,
            metered,
            self.gangs,
            power,
            learning,
            governance=governance,
            owner=f"test:{self.owners}",
            log=structlog.wrap_logger(None, processors=[_swallow]),
            settings=self.settings,
            clock=lambda: 1e9 + self.engine.now_s + self.offset_s,
        )
        self.service = ClusterService(self.controller)
        self.controller.start()

    def die(self) -> None:
        """As by SIGKILL: nothing is saved; only the lease is over."""
        self.store.close()
        self.gangs.close()
        store = Store(f"sqlite:///{self.directory / 'store.db'}")
        store.lease.give_back(f"test:{self.owners}")
        store.close()

    def restart(self) -> None:
        """Killed, and another takes over."""
        self.die()
        self.start()

    def close(self) -> None:
        self.gangs.close()
        self.store.close()

    def submit(self, **keys: Any) -> str:
        spec = {"run": "python train.py", "rescale": "in-place", "checkpoint": {"grace": 4}, **keys}
        return self.service.submit(JobSpec.model_validate(spec), ADA)[0].id

    def job(self, job_id: str) -> StoredJob:
        return self.store.job(job_id)

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.engine.tick(self.turn_s)
            self.controller.turn()

    def until(self, done: Callable[[], bool], turns: int = 600) -> None:
        for _ in range(turns):
            if done():
                return
            self.turn()
        jobs = [(job.id, job.state.value, job.reason) for job in self.store.active()]
        raise AssertionError(f"nothing came of it; {jobs}, {self.controller.notices.shown()}, {self.gangs.troubles()}")

    def until_state(self, job_id: str, state: JobState) -> None:
        self.until(lambda: self.job(job_id).state is state)

    def until_trains(self, job_id: str) -> None:
        self.until(lambda: job_id in self.controller.jobs and self.controller.jobs[job_id].steps > 0)

    def ends(self, job_id: str) -> list[str]:
        """Ends that were told of a job."""
        ends = {state.value for state in JobState if state.ended}
        return [
            event.kind
            for event in self.store.events(limit=1000, only=RecordFilter(job_id=job_id)).items
            if event.kind in ends
        ]


def _swallow(logger: Any, method: str, event: Mapping[str, Any]) -> Any:
    raise structlog.DropEvent


def names(engine: FakeEngine, job_id: str) -> list[RankName]:
    """All launches of a job so far."""
    return [name for name in engine.launches if name.gang == job_id]
