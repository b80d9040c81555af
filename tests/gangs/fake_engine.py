"""An engine in which time passes only when a test says so, and which watches that no GPU is given away twice."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import CHECKPOINT_FILE, JOB_DIR, Mailbox, RankReport
from powerflow.engine.protocol import EngineError, EngineNode, Fenced, RankName, RankSpec, RankState, RankStatus
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

    def advance(self) -> int | None:
        self.turns += 1
        if self.line:
            self.log += self.line.format(turn=self.turns).encode()
        return self.code if self.turns >= self.lasts else None


class FakeEngine:
    """An `Engine`. ``play`` makes what runs; ``stubborn`` ranks ignore SIGTERM."""

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

    def nodes(self) -> Sequence[EngineNode]:
        return [EngineNode(name, gpus) for name, gpus in self.gpus.items()]

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
        for other in self.running():
            assert not own & slots_of(self.specs[other]), f"{spec.name} on GPUs of {other}"
        epochs = [name.epoch for name in self.launches if name.gang == spec.name.gang]
        assert spec.name.epoch >= max(epochs, default=0), "epochs go back"
        status = RankStatus(spec.name, spec.node, RankState.RUNNING, len(self.launches) + 1, None, self.now_s, math.nan)
        self.launches.append(spec.name)
        self.statuses[spec.name] = status
        self.specs[spec.name] = spec
        self.players[spec.name] = self.play(spec)
        return status

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

    def forget(self, name: RankName) -> None:
        if name in self.statuses and self.statuses[name].state is not RankState.RUNNING:
            del self.statuses[name], self.players[name], self.specs[name]

    def close(self) -> None:
        pass

    # What tests do.

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
        self.statuses[name] = replace(self.statuses[name], state=state, code=code, ended_s=self.now_s)

    def tick(self, dt_s: float = 0.5) -> None:
        self.now_s += dt_s
        for name in self.running():
            code = self.players[name].advance()
            if code is not None:
                self.end(name, code)

    def fake_rank(self, spec: RankSpec, steps_total: int, habits: Habits | None = None) -> FakeRank:
        def alive(report: RankReport) -> bool:
            return self.statuses[RankName.parse(report.name)].state is RankState.RUNNING

        mailbox = Mailbox(Path(spec.env[JOB_DIR]), spec.env.get(CHECKPOINT_FILE))
        mailbox.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        return FakeRank(mailbox, str(spec.name), steps_total, alive, lambda: self.now_s, habits)


def slots_of(spec: RankSpec) -> set[Place]:
    """GPUs that a rank computes on."""
    return {(spec.node, int(gpu)) for gpu in spec.env["POWERFLOW_GPUS"].split(",")}
