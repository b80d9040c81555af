"""Build a live cluster: its GPUs, its engine, its store, and its controller."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from powerflow.agent.pythons import PYTHON_IN_PATH
from powerflow.api.stages import Stage
from powerflow.cluster.spec import ClusterSpec, Node, parse_cluster
from powerflow.cost.catalogue import axes_for, declared, gpu_type
from powerflow.cost.costs_file import Costs
from powerflow.cost.guess import in_words
from powerflow.cost.table import Axes
from powerflow.engine.kind import EngineKind
from powerflow.engine.local.why_not import is_missing
from powerflow.engine.protocol import Engine, EngineError, RankName, RankSpec
from powerflow.errors import InputError
from powerflow.gangs.manager import Gangs
from powerflow.gangs.types import Limits
from powerflow.live.cluster_service import ClusterService
from powerflow.live.controller import Controller
from powerflow.live.controller_settings import ControllerSettings
from powerflow.live.emulation import Emulation
from powerflow.live.fabric import Fabric, FabricSettings, ManyMachines, OneMachine
from powerflow.live.governance.budgets import LiveBudgets
from powerflow.live.governance.cap_record import CapRecords
from powerflow.live.governance.caps import Caps
from powerflow.live.governance.replay_process import Replays
from powerflow.live.governance.savings import SavingsEstimate
from powerflow.live.governance.shares import Shares
from powerflow.live.governance.signals import Signals
from powerflow.live.governance.stages import Stages
from powerflow.live.governance.step import GovernanceParts
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.live.gpus.hosts import nodes_of, rack_of
from powerflow.live.gpus.machines import gpus_of
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.decision_log import DecisionLog
from powerflow.live.rank_environment import rank_environment
from powerflow.policy import registry
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.leader_lease import own_name
from powerflow.store.pairing import pair
from powerflow.store.store import Store


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Settings of a live cluster, from its administrator.

    Attributes:
        state: Directory for everything that the controller keeps on disk.
        emulate: A cluster of emulated GPUs, such as ``2x4:A100``; None for the NVIDIA GPUs of this machine.
        engine: What starts ranks: this machine, or the agents of other machines.
        agents: Host and port on which agents dial in.
        ray_address, ray_emulate: See `FabricSettings`.
        shared: Folder that all machines share, for the checkpoints of jobs that name no folder; None if there is none.
        store: Database URL; "" for SQLite in the state directory.
        policy: Name of the policy.
        energy_price: λ_E, seconds per joule.
        interval_s: Least seconds between two decisions.
        seed, time_scale: Settings of emulated GPUs; see `Emulation`.
        beside: Name of the scheduler that starts and ends the jobs of this cluster; "" if PowerFlow does.
        replays: Functions that replay past days (`powerflow.live.governance.replay_process`).
        stage: Rollout stage of all projects until an operator sets another stage.
        costs: Measured step times and watts of some models; None: all jobs start from the catalogue's values.
        restored: Accept a store or state directory of another cluster; see `powerflow.store.pairing`.
        max_grace_s: Most seconds that a job gets between SIGTERM and SIGKILL.
        controller: Settings of the controller's loop.
    """

    state: Path
    emulate: str | None = None
    engine: EngineKind = EngineKind.LOCAL
    agents: tuple[str, int] = ("127.0.0.1", 0)
    ray_address: str | None = None
    ray_emulate: str | None = None
    shared: Path | None = None
    store: str = ""
    policy: str = "prices"
    energy_price: float = 0.0
    interval_s: float = 60.0
    seed: int = 0
    time_scale: float = 1.0
    beside: str = ""
    replays: Replays = field(default_factory=Replays)
    stage: Stage = Stage.ENFORCE
    costs: Costs | None = None
    restored: bool = False
    max_grace_s: float = 600.0
    controller: ControllerSettings = field(default_factory=ControllerSettings)


#: Clocks to choose from; and where nothing but the clock can be chosen, within a few percent of the highest.
CLOCKS, CLOCKS_ALONE = 7, 25
#: Setting in the store: number of the last controller that gave orders to machines.
TERM = "term"


@dataclass(slots=True)
class LiveCluster:
    """A live cluster whose controller has not started yet."""

    controller: Controller
    service: ClusterService
    fabric: Fabric
    store: Store
    spec: ClusterSpec
    axes: Mapping[str, Axes]
    log: Any

    def start(self) -> bool:
        """Take the store and the jobs that run, and give orders to machines from now on.

        Return True if an agent of another version was replaced.

        Raises:
            Refused: Another controller has the store.
        """
        self.controller.start()
        # it also rises if the store was restored from a backup
        term = max(int(self.store.get(TERM, 0)) + 1, time.time_ns() // 1_000_000)
        self.store.put(TERM, term)
        return self.fabric.lead(term)

    def close(self) -> None:
        """Close the store and the engine, and release the GPUs. The ranks of all jobs continue."""
        self.fabric.close()
        self.store.close()


#: Enclose a part of a long work that may be told to a user, in a few words.
Phase = Callable[[str], contextlib.AbstractContextManager[None]]


def _silent(what: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def _end_agent(fabric: Fabric) -> None:
    """End the agent of this machine; it stays if ranks run."""
    with contextlib.suppress(EngineError):
        fabric.shutdown()


def build(settings: ClusterSettings, log: Any, phase: Phase = _silent) -> LiveCluster:
    """Open an existing live cluster, or make a new one.

    Args:
        settings: Settings from the administrator.
        log: A structlog logger.
        phase: Tells a user what is done now.

    Raises:
        InputError: There is no GPU, the state directory cannot be used, or a setting is wrong.
    """
    interval_s = settings.interval_s
    policy = with_rules(registry.load(settings.policy), interval_s=interval_s)
    if settings.costs is not None and settings.emulate is not None:  # of real GPUs, the types are not known yet
        types = [gpu_type(name).name for name in parse_cluster(settings.emulate, "--emulate").pools()]
        settings.costs.check_types(types, settings.emulate)
    state = settings.state
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o711)  # job directories below are their users' to enter
        (state / "gangs").mkdir(exist_ok=True)
        (state / "gangs").chmod(0o700)  # it describes the jobs of all users
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=str(state), exit_code=1) from error
    kind = settings.engine
    fabric = (OneMachine if kind is EngineKind.LOCAL else ManyMachines)(
        FabricSettings(state, kind, settings.emulate, settings.agents, settings.ray_address, settings.ray_emulate)
    )
    with contextlib.ExitStack() as undo:
        undo.callback(fabric.close)
        with phase("opens the store"):
            store = Store(settings.store or f"sqlite:///{state / 'powerflow.db'}")
            undo.callback(store.close)
            paired = pair(state, store, restored=settings.restored, moves=_is_apart(settings))
        with phase("starts the agent of this machine" if kind is EngineKind.LOCAL else "waits for the first machines"):
            fabric.open(paired.store)
        undo.callback(_end_agent, fabric)  # a start that is refused leaves nothing behind
        for words in fabric.left_out:
            log.warning("GPU left out", what=words)
        engine = fabric.engine
        gpus = [gpu for machine in fabric.source.machines() for gpu in gpus_of(fabric.source, machine)]
        emulated = any(gpu.emulated for gpu in gpus)
        racks = {node.name: rack_of(node) for node in engine.nodes()}
        spec = ClusterSpec(settings.emulate or platform.node(), nodes_of(gpus, racks))
        for card in declared():
            if card.name in spec.pools():
                log.warning("GPU type not in the catalogue", what=in_words(card))
        joins = kind is not EngineKind.LOCAL
        if settings.costs is not None and not set(settings.costs.types()) & set(spec.pools()):
            log.warning("costs of other GPUs", what=f"{settings.costs.source} has {settings.costs.names()}")
        clocks = CLOCKS_ALONE if settings.beside else CLOCKS
        axes = {name: _axes(name, nodes, joins=joins, clocks=clocks) for name, nodes in spec.pools().items()}
        idle_w = {name: gpu_type(name).idle_w for name in axes}
        scheduler = Scheduler(spec, axes, idle_w, policy, energy_price=settings.energy_price, interval_s=interval_s)
        as_user = fabric.runs_as_users
        power = ClusterGpus(fabric.source, store)
        gangs = Gangs(
            engine,
            state,
            rank_environment(power, Emulation(settings.seed, settings.time_scale), store, as_user),
            limits=Limits(grace_s=settings.max_grace_s),
            interpreter=PYTHON_IN_PATH,
            shared=settings.shared,
            on_defect=lambda job_id, error: log.error("a defect ended a job", job=job_id, exc_info=error),
        )
        learning = CostLearning(axes, settings.costs)
        signals = Signals(store)
        budgets = LiveBudgets(
            store,
            spec,
            lambda: power.totals_j()[0],
            signals,
            learning,
            axes,
            respond=settings.replays.respond,
            price=settings.energy_price,
            emulated=emulated,
        )
        decision_log = DecisionLog(store, learning, scheduler)
        stages = Stages(store, lambda: decision_log.calibrations, settings.stage)
        compare = settings.replays.compare
        savings = SavingsEstimate(store, spec, axes, learning, stages, compare, lambda: scheduler.energy_price)
        caps = Caps(store, scheduler.nodes, power, CapRecords(state / "caps"))
        governance = GovernanceParts(caps, Shares(store), signals, budgets, stages, savings, decision_log)
        controller = Controller(
            scheduler,
            store,
            engine,
            gangs,
            power,
            learning,
            governance=governance,
            owner=own_name(),
            settings=settings.controller,
            beside=settings.beside,
            runs_as=(lambda user: user) if as_user else (lambda user: ""),
            log=log,
        )
        for number, line in enumerate([*(f"left out: {words}" for words in fabric.left_out), *paired.notices]):
            controller.notices.show(f"start {number}", line)
        undo.pop_all()
    may_run = _may_run(as_user) if kind is EngineKind.LOCAL else _may_run_on(engine)
    apart = kind is not EngineKind.LOCAL and settings.shared is None
    service = ClusterService(controller, may_run, fabric.left_out, keeps_checkpoints=not apart, beside=settings.beside)
    return LiveCluster(controller, service, fabric, store, spec, axes, log)


def _is_apart(settings: ClusterSettings) -> bool:
    """Return True if the ranks belong to agents that do not need this machine, so that the controller may move."""
    return settings.engine is EngineKind.AGENTS or settings.ray_address is not None


def _axes(name: str, nodes: Sequence[Node], *, joins: bool = False, clocks: int = CLOCKS) -> Axes:
    """Return the GPU counts and the clocks that jobs may have on one GPU type.

    The counts are powers of two, whole nodes, and each count up to 16 or up to a node.

    Args:
        name: Name of the GPU type.
        nodes: Nodes with such GPUs.
        clocks: How many clocks there are.
        joins: True if nodes may join later. Then there are counts for twice as many nodes, within 8 to 32 more.
    """
    total, per_node = sum(node.gpus for node in nodes), max(node.gpus for node in nodes)
    if joins:
        total += min(max(total, 8 * per_node), 32 * per_node)
    counts = {1 << i for i in range(total.bit_length()) if 1 << i <= total}
    counts |= set(range(1, min(total, max(per_node, 16)) + 1)) | set(range(per_node, total + 1, per_node))
    return axes_for(name, per_node, sorted(counts), clocks)


def _may_run(as_user: bool) -> Callable[[str, str | None], str]:
    """Return a function that says why a user's jobs cannot run in a directory of this machine.

    It returns "" if they can.
    """
    own = pwd.getpwuid(os.geteuid())

    def why_not(user: str, directory: str | None) -> str:
        if not as_user and user != own.pw_name:
            return f"this controller runs as {own.pw_name} and cannot run jobs of {user}"
        try:
            uid = pwd.getpwnam(user).pw_uid if as_user else own.pw_uid
        except KeyError:
            return f"there is no login {user} on this machine"
        if directory is not None and is_missing(directory, uid):
            return f"there is no directory {directory} on the controller's machine"
        return ""

    return why_not


def _may_run_on(engine: Engine) -> Callable[[str, str | None], str]:
    """Return a function that says why a user's jobs cannot run in a directory of a node that answers."""

    def why_not(user: str, directory: str | None) -> str:
        node = next((node.name for node in engine.nodes() if node.up), None)
        if node is None:
            return ""  # nobody can tell now; the launch will
        spec = RankSpec(RankName("check", 0, 0), node, (), {}, directory or "", user)
        try:
            why = engine.check(spec)
        except EngineError:
            return ""
        return f"{why} on {node}" if why else ""

    return why_not
