"""Define the engine, which runs the processes of jobs: a process table, Ray, Slurm or Kubernetes can be one.

A **rank** is one process (with whatever it starts) on one node. A **gang** is all ranks of one job. Ranks are named
by whoever launches them; a name that is launched twice starts one process only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol


class RankName(NamedTuple):
    """Name of one launch of one process: its gang, the epoch of the gang, and its number in that epoch."""

    gang: str
    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.gang}.{self.epoch}.{self.number}"

    @staticmethod
    def parse(text: str) -> RankName:
        """Parse a name from its text.

        Raises:
            ValueError: The text is no name.
        """
        gang, epoch, number = text.rsplit(".", 2)
        return RankName(gang, int(epoch), int(number))


class RankState(StrEnum):
    """State of a rank."""

    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"  # the engine cannot find out how it ended (its node is gone)


@dataclass(frozen=True, slots=True)
class RankSpec:
    """Describe a rank: what to run, where, and as which user.

    Attributes:
        name: Its name; a later launch of the same name starts nothing.
        node: Node to run on.
        command: Argument vector; no shell reads it.
        env: The whole environment of the process.
        directory: Working directory.
        user: Login name to run as, never a more privileged one; "": the engine's own.
        memory_bytes: Limit of its memory; 0: none. Only enforced where `Engine.limits` says so.
        cpus: Limit of its CPUs; 0: none. Only enforced where `Engine.limits` says so.
        python: ``command`` is ``[python, script, …]`` and may run in a preloaded interpreter.
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
    """Status of one rank.

    Attributes:
        name: Its name.
        node: Node on which it runs or ran.
        state: Its state.
        pid: Its process on that node; 0 if the engine has no process numbers.
        code: Exit code; −N if signal N ended it (as in `subprocess`); None while it runs or if it is lost.
        started_s, ended_s: Unix seconds; ``ended_s`` is nan while it runs.
        rebooted: It was ended because its machine went down, which has been booted since.
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
    """Node of an engine: its name, its number of GPUs, and whether the engine can reach it now."""

    name: str
    gpus: int
    up: bool = True


class EngineError(RuntimeError):
    """The engine could not carry out a request; ``retry``: the same request may succeed later."""

    def __init__(self, what: str, *, retry: bool = False) -> None:
        super().__init__(what)
        self.retry = retry


class Fenced(EngineError):
    """A launch was refused because its gang was fenced at a later epoch."""


class Engine(Protocol):
    """Run ranks. Each method is idempotent: call it again after a failure.

    Ranks outlive the caller: a new `Engine` object for the same place finds every rank that was launched and not
    forgotten, with its state.
    """

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes."""
        ...

    def limits(self) -> frozenset[str]:
        """Return which of ``{"memory", "cpus", "user"}`` this engine can enforce here."""
        ...

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank; if its name was launched before, only return the status of that rank.

        Raises:
            Fenced: Its gang was fenced at a later epoch.
            EngineError: It cannot be started (no such node, command, directory or user).
        """
        ...

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang whose epoch is below this one; a fence is never lowered."""
        ...

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank and all its descendants, wherever they detached to; return False if it has ended."""
        ...

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not forgotten."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until the state of a rank may have changed; return False if none did within the timeout."""
        ...

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return what a rank wrote to stdout and stderr: bytes from ``offset`` on, and the offset after them.

        Offsets count all that was ever written; what rotation has dropped is skipped. A negative offset counts from
        the end.

        Raises:
            KeyError: The engine does not know the rank.
        """
        ...

    def forget(self, name: RankName) -> None:
        """Delete the status and log of a rank that has ended; a rank that runs is left as it is."""
        ...

    def close(self) -> None:
        """Disconnect from the engine; ranks run on."""
        ...
