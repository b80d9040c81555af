"""What any engine must do, be it a process table, Ray, Slurm or Kubernetes.

A **rank** is one process (with whatever it starts) on one node. A **gang** is all ranks of one job. Ranks are named
by whoever launches them; the name is the fence: launching a name twice starts one process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol


class RankName(NamedTuple):
    """Names one launch of one process: which gang, in which epoch of it, and its number there."""

    gang: str
    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.gang}.{self.epoch}.{self.number}"

    @staticmethod
    def parse(text: str) -> RankName:
        """The name that prints as this text.

        Raises:
            ValueError: If it is none.
        """
        gang, epoch, number = text.rsplit(".", 2)
        return RankName(gang, int(epoch), int(number))


class RankState(StrEnum):
    """Where a rank stands."""

    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"  # the engine cannot say any more what became of it (its node is gone)


@dataclass(frozen=True, slots=True)
class RankSpec:
    """What to run, where, and as whom.

    Attributes:
        name: Fences the launch.
        node: Node to run on.
        command: Argument vector; no shell reads it.
        env: The whole environment of the process.
        directory: Working directory.
        user: Login name to run as; "" means the engine's own. Never a more privileged one.
        memory_bytes: Most memory it may use; 0: no limit. Best effort, see `Engine.limits`.
        cpus: Most CPUs it may use; 0: no limit. Best effort.
        python: True when ``command`` is ``[python, script, …]`` and may be run inside a preloaded interpreter.
    """

    name: RankName
    node: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    directory: str = os.curdir
    user: str = ""
    memory_bytes: int = 0
    cpus: float = 0.0
    python: bool = False


@dataclass(frozen=True, slots=True)
class RankStatus:
    """One rank as the engine knows it.

    Attributes:
        name: Which.
        node: Where it runs or ran.
        state: See `RankState`.
        pid: Its process on that node; 0 where that means nothing.
        code: Exit code; −N when ended by signal N (as `subprocess` says it); None while it runs or is lost.
        started_s, ended_s: Unix seconds; ``ended_s`` is nan while it runs.
        rebooted: It did not end by itself: its machine went down, and was booted since.
    """

    name: RankName
    node: str
    state: RankState
    pid: int
    code: int | None
    started_s: float
    ended_s: float
    rebooted: bool = False


@dataclass(frozen=True, slots=True)
class EngineNode:
    """One node of an engine: its name, how many GPUs it offers, and whether it can be reached now."""

    name: str
    gpus: int
    up: bool = True


class EngineError(RuntimeError):
    """The engine could not do what was asked; ``retry`` says whether asking again may help."""

    def __init__(self, what: str, *, retry: bool = False) -> None:
        super().__init__(what)
        self.retry = retry


class Fenced(EngineError):
    """A launch came too late: its gang has been fenced at a later epoch."""


class Engine(Protocol):
    """Runs ranks. All methods may be called again after a failure: each is idempotent.

    Ranks outlive the caller: a new `Engine` object over the same place finds every rank that was launched and not
    forgotten, with its state.
    """

    def nodes(self) -> Sequence[EngineNode]:
        """Nodes there are."""
        ...

    def limits(self) -> frozenset[str]:
        """Which of ``{"memory", "cpus", "user"}`` this engine can enforce here."""
        ...

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank; if its name was launched before, only say how that one is.

        Raises:
            Fenced: If its gang was fenced at a later epoch.
            EngineError: If it cannot be started (no such node, command, directory or user).
        """
        ...

    def fence(self, gang: str, epoch: int) -> None:
        """From now on refuse launches of this gang with an epoch below this one; never goes back."""
        ...

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank and everything it started; False if it does not run any more. SIGKILL ends all."""
        ...

    def ranks(self) -> Sequence[RankStatus]:
        """Every rank not forgotten."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until some rank's state may have changed (True), or for so long (False)."""
        ...

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """What a rank wrote to stdout and stderr: bytes from ``offset`` on, and the offset after them.

        Offsets count everything ever written; what rotation has dropped is skipped. A negative offset counts from
        the end.

        Raises:
            KeyError: If the engine does not know the rank.
        """
        ...

    def forget(self, name: RankName) -> None:
        """Drop all that is kept of a rank that has ended, its log included; a running one is left as it is."""
        ...

    def close(self) -> None:
        """Let go of the engine; ranks run on."""
        ...
