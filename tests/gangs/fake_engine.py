"""An engine in which time passes only when a test says so, and which watches that no GPU is given away twice."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import CHECKPOINT_FILE, JOB_DIR, Mailbox, RankReport, Switch, Target
from powerflow.engine.protocol import (
    EngineError,
    EngineNode,
    Fenced,
    RankName,
    RankSpec,
    RankState,
    RankStatus,
    not_started,
)
from powerflow.engine.shells import Shells
from tests.gangs.fake_rank import FakeRank, Habits


class Player(Protocol):
    """What runs as a rank."""

    def advance(self) -> int | None:
        """One turn; the exit code once it ends."""
        ...


@dataclass
class Script:
    """A program that lasts so many turns, and writes a line in each."""

    lasts: int
    code: int = 0
    line: str = ""
    turns: int = 0
    log: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)  # of the log, after each turn

    def advance(self) -> int | None:
        self.turns += 1
        if self.line:
            self.log += self.line.format(turn=self.turns).encode()
        self.ends.append(len(self.log))
        return self.code if self.turns >= self.lasts else None


class FakeEngine:
    """An `Engine`. ``play`` makes what runs; ``stubborn`` ranks ignore SIGTERM."""

    shells: Shells | None = None

    def __init__(self, nodes: dict[str, int]) -> None:
        self.now_s = 1000.0
        self.gpus = nodes
        self.play: Callable[[RankSpec], Player] = lambda spec: Script(10)
        self.statuses: dict[RankName, RankStatus] = {}
        self.players: dict[RankName, Player] = {}
        self.specs: dict[RankName, RankSpec] = {}
        self.fences: dict[str, int] = {}
        self.stubborn: set[RankName] = set()
        self.signals: list[tuple[RankName, int]] = []
        self.launches: list[RankName] = []
        self.refusals: list[EngineError] = []
        self.batches: list[list[RankName]] = []
        self.down: set[str] = set()  # nodes that do not answer
        self.off: set[RankName] = set()  # ranks that were declared off
        self.unheard: dict[RankName, RankStatus] = {}  # ends of ranks on nodes that do not answer
        self.seen_s: dict[str, float] = {}  # when nodes have last answered
        self.slow: set[str] = set()  # nodes that accept launches and answer later
        self.orders: list[RankSpec] = []  # launches that such a node has not answered yet
        self.copies: dict[tuple[str, str], NodeCopy] = {}  # by node and job
        self.kinds: dict[str, EngineNode] = {}  # nodes that are more than a name and a number

    def nodes(self) -> Sequence[EngineNode]:
        nodes = [self.kinds.get(name, EngineNode(name, gpus)) for name, gpus in self.gpus.items()]
        seen_s = self.seen_s.get
        return [replace(node, up=node.name not in self.down, seen_s=seen_s(node.name, math.nan)) for node in nodes]

    def limits(self) -> frozenset[str]:
        return frozenset()

    def launch(self, spec: RankSpec) -> RankStatus:
        if spec.name in self.statuses:
            return self.statuses[spec.name]
        if spec.name.epoch < self.fences.get(spec.name.gang, 0):
            raise Fenced(f"{spec.name} is fenced")
        if self.refusals:
            raise self.refusals.pop()
        own = slots_of(spec)
        for other in self.really():
            assert not own & slots_of(self.specs[other]), f"{spec.name} on GPUs of {other}"
        epochs = [name.epoch for name in self.launches if name.gang == spec.name.gang]
        assert spec.name.epoch >= max(epochs, default=0), "epochs go back"
        if spec.node in self.down:
            raise EngineError(f"node {spec.node} does not answer", retry=True)
        status = RankStatus(spec.name, spec.node, RankState.RUNNING, len(self.launches) + 1, None, self.now_s, math.nan)
        self.launches.append(spec.name)
        self.statuses[spec.name] = status
        self.specs[spec.name] = spec
        self.players[spec.name] = self.play(spec)
        return status

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        for spec in specs:
            if spec.name not in self.statuses and spec.name.epoch < self.fences.get(spec.name.gang, 0):
                raise Fenced(f"{spec.name} is fenced")
        self.batches.append([spec.name for spec in specs])
        return [self.begin(spec) for spec in specs]

    def begin(self, spec: RankSpec, again: bool = False) -> RankStatus:
        known = self.statuses.get(spec.name)
        if known is not None and known.state is RankState.NOT_STARTED:
            del self.statuses[spec.name]
        if spec.node in self.slow and spec.name not in self.statuses and not again:
            self.orders.append(spec)
            self.specs[spec.name] = spec
            return self.put(spec, RankState.STARTING)
        try:
            return self.launch(spec)
        except EngineError as error:
            return self.refuse(spec, error)

    def put(self, spec: RankSpec, state: RankState) -> RankStatus:
        ended_s = math.nan if state.may_run else self.now_s
        status = self.statuses[spec.name] = RankStatus(spec.name, spec.node, state, 0, None, self.now_s, ended_s)
        return status

    def refuse(self, spec: RankSpec, error: EngineError) -> RankStatus:
        status = replace(not_started(spec, error), started_s=self.now_s, ended_s=self.now_s)
        self.statuses[spec.name] = status
        return status

    def check(self, spec: RankSpec) -> str:
        return ""

    def declare_off(self, node: str) -> None:
        if node not in self.down:
            raise EngineError(f"node {node} answers")
        for status in [*self.statuses.values()]:
            if status.node == node and status.state.may_run:
                self.statuses[status.name] = replace(status, state=RankState.LOST, ended_s=self.now_s)
                self.off.add(status.name)

    shares_mailboxes = True

    def notices(self) -> Sequence[str]:
        return []

    def post(self, gang: str, file: str, text: str) -> None:
        pass

    def fence(self, gang: str, epoch: int) -> None:
        self.fences[gang] = max(epoch, self.fences.get(gang, 0))

    def signal(self, name: RankName, number: int) -> bool:
        if name not in self.statuses or self.statuses[name].state is not RankState.RUNNING:
            return False
        self.signals.append((name, number))
        if number == signal.SIGKILL or name not in self.stubborn:
            self.end(name, -number)
        return True

    def ranks(self) -> Sequence[RankStatus]:
        return list(self.statuses.values())

    def wait(self, timeout_s: float) -> bool:
        return True

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        player = self.players[name]
        log = bytes(player.log) if isinstance(player, Script) else b""
        start = max(0, len(log) + offset) if offset < 0 else offset
        return log[start : start + limit], min(start + limit, len(log))

    def log_offset(self, name: RankName, since_s: float) -> int:
        """A script writes once a turn, which is half a second."""
        player, begun_s = self.players[name], self.statuses[name].started_s
        if not isinstance(player, Script):
            return 0
        turns = max(0, math.ceil((since_s - begun_s) / 0.5))
        return [0, *player.ends][min(turns, len(player.ends))]

    def forget(self, name: RankName) -> None:
        if name in self.statuses and not self.statuses[name].state.may_run:
            for kept in (self.statuses, self.players, self.specs):
                kept.pop(name, None)

    def close(self) -> None:
        pass

    # What tests do.

    def cut(self, node: str) -> None:
        """Cut a node off: its ranks run on, and nobody hears of them."""
        self.down.add(node)
        self._mark(node, RankState.RUNNING, RankState.UNREACHABLE)

    def mend(self, node: str) -> None:
        """Let a node answer again; ranks that were declared off are ended first."""
        self.down.discard(node)
        for name in [name for name in self.off if self.statuses[name].node == node]:
            self.players.pop(name, None)
            self.off.discard(name)
        for name in [name for name in self.unheard if self.statuses[name].node == node]:
            status = self.unheard.pop(name)
            if self.statuses[name].state is RankState.UNREACHABLE:
                self.statuses[name] = status
        self._mark(node, RankState.UNREACHABLE, RankState.RUNNING)

    def boot(self, node: str) -> None:
        """Let a node answer again that was off meanwhile."""
        self.down.discard(node)
        for status in [*self.statuses.values()]:
            if status.node == node and status.state is RankState.UNREACHABLE:
                self.players.pop(status.name, None)
                self.statuses[status.name] = replace(status, state=RankState.LOST, ended_s=self.now_s, rebooted=True)

    def answer(self, refuse: EngineError | None = None) -> None:
        """Let slow nodes answer all launches that are on their way."""
        orders, self.orders = self.orders, []
        for spec in orders:
            del self.statuses[spec.name]
            if refuse is not None:
                self.refuse(spec, refuse)
            else:
                self.begin(spec, again=True)

    def _mark(self, node: str, before: RankState, after: RankState) -> None:
        for status in [*self.statuses.values()]:
            if status.node == node and status.state is before:
                self.statuses[status.name] = replace(status, state=after)

    def really(self, gang: str | None = None) -> list[RankName]:
        """Ranks whose process runs, on whatever node."""
        return [name for name in self.players if self._runs(name) and gang in (None, name.gang)]

    def _runs(self, name: RankName) -> bool:
        status = self.statuses.get(name)
        runs = (RankState.RUNNING, RankState.UNREACHABLE)
        return name in self.off or (status is not None and status.state in runs)

    def running(self, gang: str | None = None) -> list[RankName]:
        return [
            status.name
            for status in self.statuses.values()
            if status.state is RankState.RUNNING and gang in (None, status.name.gang)
        ]

    def placed(self, gang: str) -> set[Place]:
        return {slot for name in self.running(gang) for slot in slots_of(self.specs[name])}

    def end(self, name: RankName, code: int | None) -> None:
        state = RankState.LOST if code is None else RankState.EXITED
        if self.statuses[name].node in self.down:  # nobody hears of it yet
            self.players.pop(name, None)
            self.unheard[name] = replace(self.statuses[name], state=state, code=code, ended_s=self.now_s)
            return
        self.statuses[name] = replace(self.statuses[name], state=state, code=code, ended_s=self.now_s)

    def tick(self, dt_s: float = 0.5) -> None:
        self.now_s += dt_s
        for name in self.really():
            code = self.players[name].advance()
            if code is not None:
                self.end(name, code)

    def fake_rank(self, spec: RankSpec, steps_total: int, habits: Habits | None = None) -> FakeRank:
        def alive(report: RankReport) -> bool:
            return self._runs(RankName.parse(report.name))

        copy = self.copies.setdefault((spec.node, spec.name.gang), NodeCopy())
        mailbox = NodeMailbox(
            Path(spec.env[JOB_DIR]), spec.env.get(CHECKPOINT_FILE), copy, lambda: spec.node in self.down
        )
        mailbox.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        return FakeRank(mailbox, str(spec.name), steps_total, alive, lambda: self.now_s, habits)


@dataclass
class NodeCopy:
    """What a node's copy of a job's mailbox holds."""

    target: Target | None = None
    switch: Switch | None = None
    reports: dict[str, RankReport] = field(default_factory=dict)
    unsent: set[str] = field(default_factory=set)


class NodeMailbox(Mailbox):
    """A mailbox on a node: while the node is away, no message goes in or out; its ranks see each other."""

    def __init__(self, directory: Path, checkpoint: str | None, copy: NodeCopy, away: Callable[[], bool]) -> None:
        super().__init__(directory, checkpoint)
        self.copy, self.away = copy, away

    def target(self) -> Target | None:
        if not self.away():
            self.copy.target = super().target()
        return self.copy.target

    def switch(self) -> Switch | None:
        if not self.away():
            self.copy.switch = super().switch()
        return self.copy.switch

    def reports(self, names: Sequence[str]) -> list[RankReport]:
        if not self.away():
            self.send()
            self.copy.reports.update({report.name: report for report in super().reports(names)})
        return [self.copy.reports[name] for name in names if name in self.copy.reports]

    def report(self, report: RankReport) -> None:
        self.copy.reports[report.name] = report
        self.copy.unsent.add(report.name)
        if not self.away():
            self.send()

    def send(self) -> None:
        """Send what ranks of the node have reported while it was away."""
        for name in self.copy.unsent:
            super().report(self.copy.reports[name])
        self.copy.unsent.clear()

    def post_switch(self, switch: Switch) -> None:
        self.copy.switch = switch
        if not self.away():
            super().post_switch(switch)


def slots_of(spec: RankSpec) -> set[Place]:
    """GPUs that a rank computes on."""
    return {(spec.node, int(gpu)) for gpu in spec.env["POWERFLOW_GPUS"].split(",")}
