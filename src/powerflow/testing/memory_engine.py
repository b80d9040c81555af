r"""Provide an engine without processes, for tests: its virtual ranks exist in memory only.

Thousands of virtual ranks cost nothing. A `Part` says for one rank how long it runs, what it writes, how it reacts to
signals, and its exit code. Time is real. A `MemoryCluster` keeps the ranks; engine objects for it can be created and
closed at any time::

    cluster = MemoryCluster({"node-1": 8}, play=lambda spec: Part(lasts_s=30.0, says=b"step 1\n"))
    engine = MemoryEngine(cluster)
"""

from __future__ import annotations

import heapq
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from powerflow.engine.local.records import file_name
from powerflow.engine.protocol import EngineError, EngineNode, Fenced, RankName, RankSpec, RankState, RankStatus

_IGNORED = frozenset({0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP})


@dataclass(frozen=True, slots=True)
class Part:
    """The behaviour of one virtual rank.

    Attributes:
        lasts_s: Seconds until the rank ends.
        code: Exit code of the rank if it ends after ``lasts_s``.
        says: Bytes that the rank writes to its log when it starts.
        answers: Exit code for each signal number; None if the rank ignores that signal. Signal N without an entry does
            what it does by default: it ends the rank with code −N, or is ignored (SIGCONT, for example).
    """

    lasts_s: float = math.inf
    code: int = 0
    says: bytes = b""
    answers: Mapping[int, int | None] = field(default_factory=dict)


def perform(spec: RankSpec) -> Part:
    """Return the behaviour of a rank with the command ``true``, ``false``, ``sleep SECONDS`` or ``echo WORDS``.

    Raises:
        EngineError: The rank has a command other than these four.
    """
    match spec.command:
        case ("true",):
            return Part(0.0)
        case ("false",):
            return Part(0.0, 1)
        case ("sleep", seconds):
            return Part(float(seconds))
        case ("echo", *words):
            return Part(0.0, 0, " ".join(words).encode() + b"\n")
    raise EngineError(f"cannot start {spec.name}: no such command {spec.command}")


class MemoryCluster:
    """The nodes of a memory engine and the virtual ranks on them; any number of engine objects can use one cluster.

    Args:
        nodes: Number of GPUs for each node name.
        play: Function that returns the `Part` (behaviour) of a rank; it may raise EngineError.
    """

    def __init__(self, nodes: Mapping[str, int], play: Callable[[RankSpec], Part] = perform) -> None:
        self.changed = threading.Condition()  # guards everything below
        self.version = 0
        self.nodes = {name: EngineNode(name, gpus) for name, gpus in nodes.items()}
        self.fences: dict[str, int] = {}
        self.statuses: dict[RankName, RankStatus] = {}
        self.parts: dict[RankName, Part] = {}
        self.logs: dict[RankName, bytearray] = {}
        self._play = play
        self._ends: list[tuple[float, RankName]] = []
        self._pids = 0

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, and return its status. The caller must hold the lock of this cluster (``changed``)."""
        self.settle()
        if spec.name in self.statuses:
            return self.statuses[spec.name]
        if self.fences.get(spec.name.gang, 0) > spec.name.epoch:
            raise Fenced(f"{spec.name} is refused: {spec.name.gang} is at epoch {self.fences[spec.name.gang]}")
        if spec.node not in self.nodes or not self.nodes[spec.node].up:
            raise EngineError(f"there is no node {spec.node!r}")
        part = self._play(spec)
        self._pids += 1
        now_s = time.time()
        status = RankStatus(spec.name, spec.node, RankState.RUNNING, self._pids, None, now_s, math.nan)
        self.statuses[spec.name] = status
        self.parts[spec.name] = part
        self.logs[spec.name] = bytearray(part.says)
        if part.lasts_s < math.inf:
            heapq.heappush(self._ends, (now_s + part.lasts_s, spec.name))
        self._tell()
        return status

    def settle(self) -> float:
        """End the ranks whose time is over. The caller must hold the lock of this cluster (``changed``).

        Returns:
            Seconds until the next rank ends; infinity if no rank will end by itself.
        """
        now_s = time.time()
        while self._ends and self._ends[0][0] <= now_s:
            ended_s, name = heapq.heappop(self._ends)
            if name in self.parts:
                self._end(name, RankState.EXITED, self.parts[name].code, ended_s)
        return self._ends[0][0] - now_s if self._ends else math.inf

    def end(self, name: RankName, code: int) -> None:
        """End a rank now with this exit code, if the rank runs."""
        with self.changed:
            self._end(name, RankState.EXITED, code, time.time())

    def write(self, name: RankName, text: bytes) -> None:
        """Append text to the log of a rank, as if the rank wrote it."""
        with self.changed:
            self.logs[name] += text

    def lose(self, node: str) -> None:
        """Mark a node as down. All ranks that run on it become lost."""
        with self.changed:
            self.nodes[node] = replace(self.nodes[node], up=False)
            for status in [*self.statuses.values()]:
                if status.node == node:
                    self._end(status.name, RankState.LOST, None, time.time())
            self._tell()

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; return False if the rank does not run.

        The caller must hold the lock of this cluster (``changed``).
        """
        self.settle()
        status = self.statuses.get(name)
        if status is None or status.state is not RankState.RUNNING:
            return False
        code = self.parts[name].answers.get(number, None if number in _IGNORED else -number)
        if number == signal.SIGKILL:
            code = -number
        if code is not None:
            self._end(name, RankState.EXITED, code, time.time())
        return True

    def forget(self, name: RankName) -> None:
        """Delete an ended rank and its log. The caller must hold the lock of this cluster (``changed``)."""
        self.settle()
        status = self.statuses.get(name)
        if status is not None and status.state is not RankState.RUNNING:
            del self.statuses[name], self.parts[name], self.logs[name]
            self._tell()

    def _end(self, name: RankName, state: RankState, code: int | None, ended_s: float) -> None:
        status = self.statuses.get(name)
        if status is not None and status.state is RankState.RUNNING:
            self.statuses[name] = replace(status, state=state, code=code, ended_s=max(ended_s, status.started_s))
            self._tell()

    def _tell(self) -> None:
        self.version += 1
        self.changed.notify_all()


class MemoryEngine:
    """An `Engine` with virtual ranks, for tests.

    It claims to enforce all limits, because virtual ranks use no memory and no CPU.
    """

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._closed = False
        self._seen = threading.local()

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of the cluster."""
        with self._open().changed:
            return list(self._cluster.nodes.values())

    def limits(self) -> frozenset[str]:
        """Return all kinds of limits: memory, cpus and user."""
        return frozenset({"memory", "cpus", "user"})

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank; a second call with the same name starts nothing. See `Engine.launch`."""
        file_name(spec.name)
        if not spec.command or not spec.command[0]:
            raise EngineError(f"{spec.name}: the command is empty")
        with self._open().changed:
            return self._cluster.launch(spec)

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. See `Engine.fence`."""
        file_name(RankName(gang, epoch, 0))
        with self._open().changed:
            self._cluster.fences[gang] = max(epoch, self._cluster.fences.get(gang, 0))

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; return False if it does not run. See `Engine.signal`."""
        with self._open().changed:
            return self._cluster.signal(name, number)

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not deleted with `forget`."""
        with self._open().changed:
            self._cluster.settle()
            self._seen.version = self._cluster.version
            return list(self._cluster.statuses.values())

    def wait(self, timeout_s: float) -> bool:
        """Wait until a rank has changed since this thread last called `ranks` or `wait`.

        Returns:
            True if a rank has changed; False if the timeout has passed. The first call of a thread returns True.
        """
        before = getattr(self._seen, "version", -1)
        deadline_s = time.monotonic() + timeout_s
        with self._open().changed:
            while True:
                next_s = self._cluster.settle()
                left_s = deadline_s - time.monotonic()
                if self._cluster.version != before or left_s <= 0 or self._closed:
                    self._seen.version = self._cluster.version
                    return self._cluster.version != before
                self._cluster.changed.wait(min(left_s, next_s + 1e-4))

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote, and the offset after it. See `Engine.log`."""
        with self._open().changed:
            written = self._cluster.logs[name]
            start = max(0, len(written) + offset) if offset < 0 else offset
            found = bytes(written[start : start + limit])
            return found, start + len(found)

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        with self._open().changed:
            self._cluster.forget(name)

    def close(self) -> None:
        """Close this engine object; its ranks continue to run."""
        with self._cluster.changed:
            self._closed = True
            self._cluster.changed.notify_all()

    def _open(self) -> MemoryCluster:
        if self._closed:
            raise EngineError("this engine object was closed")
        return self._cluster
