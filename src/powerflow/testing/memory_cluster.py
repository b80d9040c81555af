"""Keep the nodes and the virtual ranks of a memory engine, with handles that break and mend nodes.

A cluster knows two things about each rank: what is true on its node, and what the engine last heard. As long as the
node answers, the two are the same. A handle such as `MemoryCluster.cut` stops the node's answers: then its ranks are
unreachable, but on the node their time passes. When the node answers again, it first hears the fences and which of its
ranks were declared off, and then tells the state of its ranks.
"""

from __future__ import annotations

import heapq
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from powerflow.testing.memory_part import Part, perform

_IGNORED = frozenset({0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP})


@dataclass(slots=True)
class _Host:
    """One node: what breaks it, and what its agent has heard.

    Attributes:
        linked, powered, agent: True if the network reaches the node, if it is on, and if its agent runs.
        boots, agents: How often the node was booted and its agent started.
        fences: The fences that the agent has heard.
        delay_s: Seconds that the agent takes to answer a launch.
    """

    node: EngineNode
    linked: bool = True
    powered: bool = True
    agent: bool = True
    boots: int = 1
    agents: int = 1
    fences: dict[str, int] = field(default_factory=dict)
    delay_s: float = 0.0

    @property
    def up(self) -> bool:
        return self.linked and self.powered and self.agent


class MemoryCluster:
    """The nodes of a memory engine and the virtual ranks on them; any number of engine objects can use one cluster.

    The caller of `begin`, `settle`, `signal` and `forget` must hold the lock of the cluster (``changed``). The handles
    `cut`, `mend`, `crash`, `boot`, `kill_agent`, `start_agent`, `add`, `leave` and `delay` take the lock themselves.

    Args:
        nodes: Number of GPUs for each node name, or the whole node.
        play: Function that returns the `Part` (behaviour) of a rank; it may raise EngineError.
        objection: Function that returns why a node cannot run a rank; "" if it can.

    Attributes:
        statuses: The state of each rank as the engine knows it.
        starts: Each start of a rank on a node, in order: (name, node). It shows if a rank has ever started twice.
    """

    def __init__(
        self,
        nodes: Mapping[str, int | EngineNode],
        play: Callable[[RankSpec], Part] = perform,
        objection: Callable[[RankSpec], str] = lambda spec: "",
    ) -> None:
        self.changed = threading.Condition()  # guards everything below
        self.version = 0
        self.fences: dict[str, int] = {}
        self.statuses: dict[RankName, RankStatus] = {}
        self.logs: dict[RankName, bytearray] = {}
        self._writes: dict[RankName, list[tuple[int, float]]] = {}  # the offset and time of each write to a log
        self.starts: list[tuple[RankName, str]] = []
        self.objection = objection
        self._hosts = {name: _Host(_node(name, node)) for name, node in nodes.items()}
        self._play = play
        self._true: dict[RankName, RankStatus] = {}  # what is true on the nodes
        self._parts: dict[RankName, Part] = {}
        self._orders: dict[RankName, tuple[float, RankSpec]] = {}  # launches on their way, and when they arrive
        self._ends: list[tuple[float, RankName]] = []
        self._off: set[RankName] = set()  # ranks that were declared off
        self._pids = 0

    # -- for the engine; the caller holds the lock --------------------------------------------------------------------

    def nodes(self) -> list[EngineNode]:
        """Return all nodes, as the engine sees them now."""
        return [self._seen(host) for host in self._hosts.values()]

    def answering(self, node: str) -> _Host:
        """Return a node that answers.

        Raises:
            EngineError: The node does not answer, or there is no such node.
        """
        if node not in self._hosts:
            raise EngineError(f"there is no node {node!r}")
        if not self._hosts[node].up:
            raise EngineError(f"node {node} does not answer", retry=True)
        return self._hosts[node]

    def check_fence(self, spec: RankSpec) -> None:
        """Raise `Fenced` if a launch is refused. A rank that was launched before may be launched again."""
        known = self.statuses.get(spec.name)
        if (known is None or known.state is RankState.NOT_STARTED) and (
            self.fences.get(spec.name.gang, 0) > spec.name.epoch
        ):
            raise Fenced(f"{spec.name} is refused: {spec.name.gang} is at epoch {self.fences[spec.name.gang]}")

    def begin(self, spec: RankSpec) -> RankStatus:
        """Send the launch of a rank to its node, and return the rank's status."""
        self.settle()
        known = self.statuses.get(spec.name)
        if known is not None and known.state is not RankState.NOT_STARTED:
            return known
        now_s = time.time()
        try:
            host = self.answering(spec.node)
        except EngineError as error:
            return self._know(not_started(spec, error))
        self._know(RankStatus(spec.name, spec.node, RankState.STARTING, 0, None, now_s, math.nan))
        self._orders[spec.name] = now_s + host.delay_s, spec
        self.settle()
        return self.statuses[spec.name]

    def fence(self, gang: str, epoch: int) -> None:
        """Set a fence, and tell it to the nodes that answer."""
        self.fences[gang] = max(epoch, self.fences.get(gang, 0))
        for host in self._hosts.values():
            if host.up:
                host.fences[gang] = self.fences[gang]

    def settle(self) -> float:
        """Start and end the ranks whose time has come.

        Returns:
            Seconds until the next rank starts or ends; infinity if none will.
        """
        now_s = time.time()
        while self._ends and self._ends[0][0] <= now_s:
            ended_s, name = heapq.heappop(self._ends)
            if name in self._true:
                self._end(name, RankState.EXITED, self._parts[name].code, ended_s)
        due = [(due_s, spec) for due_s, spec in self._orders.values() if self._hosts[spec.node].up]
        for _, spec in [order for order in due if order[0] <= now_s]:
            del self._orders[spec.name]
            self._start(spec)
        later = [due_s for due_s, spec in due if spec.name in self._orders]
        return min([*later, *(end_s for end_s, _ in self._ends[:1])], default=math.inf) - now_s

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; return False if the rank does not run.

        Raises:
            EngineError: The node does not answer, or has not started the rank yet.
        """
        self.settle()
        status = self.statuses.get(name)
        if status is None or not status.state.may_run:
            return False
        self.answering(status.node)
        if status.state is RankState.STARTING:
            raise EngineError(f"{name} is starting", retry=True)
        code = self._parts[name].answers.get(number, None if number in _IGNORED else -number)
        if number == signal.SIGKILL:
            code = -number
        if code is not None:
            self._end(name, RankState.EXITED, code, time.time())
        return True

    def log(self, name: RankName) -> bytearray:
        """Return the log of a rank.

        Raises:
            KeyError: The rank is not known.
            EngineError: The node does not answer.
        """
        if self.statuses[name].node in self._hosts:
            self.answering(self.statuses[name].node)
        return self.logs.get(name, bytearray())

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in the log of a rank the output since a time begins.

        Raises:
            KeyError: The rank is not known.
            EngineError: The node does not answer.
        """
        end = len(self.log(name))
        return next((offset for offset, written_s in self._writes.get(name, ()) if written_s >= since_s), end)

    def forget(self, name: RankName) -> None:
        """Delete a rank that does not run, and its log."""
        self.settle()
        status = self.statuses.get(name)
        if status is not None and not status.state.may_run:
            del self.statuses[name]
            if name not in self._off:  # a rank that was declared off may still have to be ended
                for kept in (self._true, self._parts, self.logs, self._writes):
                    kept.pop(name, None)
            self._tell()

    def declare_off(self, node: str) -> None:
        """Take an operator's word that a node is off: its ranks are lost."""
        if node not in self._hosts:
            raise EngineError(f"there is no node {node!r}")
        if self._hosts[node].up:
            raise EngineError(f"node {node} answers: it is not off")
        for status in self._may_run_on(node):
            self._off.add(status.name)
            self._orders.pop(status.name, None)
            self._know(replace(status, state=RankState.LOST, ended_s=time.time()))
        self._tell()

    # -- handles for tests --------------------------------------------------------------------------------------------

    def cut(self, node: str) -> None:
        """Cut a node off the network; its ranks run on."""
        self._set(node, linked=False)

    def mend(self, node: str) -> None:
        """Connect a node to the network again."""
        self._set(node, linked=True)

    def crash(self, node: str) -> None:
        """Cut the power of a node: its ranks end at once, and the engine only notices that the node is silent."""
        with self.changed:
            self.settle()
            for name, (_, spec) in [*self._orders.items()]:
                if spec.node == node:
                    del self._orders[name]
                    self._true[name] = self.statuses[name]
            self._set(node, powered=False)
            for status in [each for each in self._true.values() if each.node == node and each.state.may_run]:
                self._true[status.name] = replace(status, state=RankState.LOST, ended_s=time.time(), rebooted=True)
            self._hosts[node].fences.clear()

    def boot(self, node: str) -> None:
        """Boot a node that has crashed. It has a new incarnation and no ranks."""
        with self.changed:
            self._hosts[node].boots += 1
            self._set(node, powered=True, agent=True)

    def kill_agent(self, node: str) -> None:
        """Kill the agent of a node; its ranks run on."""
        self._set(node, agent=False)

    def start_agent(self, node: str) -> None:
        """Start the agent of a node. It finds the node's ranks."""
        with self.changed:
            self._hosts[node].agents += 1
            self._set(node, agent=True)

    def add(self, name: str, node: int | EngineNode) -> None:
        """Let a node join the cluster."""
        with self.changed:
            self._hosts[name] = _Host(_node(name, node), fences=dict(self.fences))
            self._tell()

    def leave(self, node: str) -> None:
        """Let a node leave the cluster in order. No rank may run on it."""
        with self.changed:
            self.settle()
            assert not self._may_run_on(node), f"ranks run on {node}"
            del self._hosts[node]
            self._tell()

    def delay(self, node: str, seconds: float) -> None:
        """Let a node take this long to answer a launch. Launches that are on their way arrive at the latest then."""
        with self.changed:
            self._hosts[node].delay_s = seconds
            most_s = time.time() + seconds
            for name, (due_s, spec) in self._orders.items():
                if spec.node == node:
                    self._orders[name] = min(due_s, most_s), spec
            self._tell()

    def fence_of(self, node: str, gang: str) -> int:
        """Return the fence of a gang that a node's agent has heard; 0 for none."""
        with self.changed:
            return self._hosts[node].fences.get(gang, 0)

    def end(self, name: RankName, code: int) -> None:
        """End a rank now with this exit code, if the rank runs, even on a node that does not answer."""
        with self.changed:
            self.settle()
            self._end(name, RankState.EXITED, code, time.time())

    def write(self, name: RankName, text: bytes) -> None:
        """Append text to the log of a rank, as if the rank wrote it."""
        with self.changed:
            self._writes[name].append((len(self.logs[name]), time.time()))
            self.logs[name] += text

    def running(self) -> list[RankStatus]:
        """Return the ranks that really run now, on whatever node."""
        with self.changed:
            self.settle()
            return [status for status in self._true.values() if status.state is RankState.RUNNING]

    # -----------------------------------------------------------------------------------------------------------------

    def _set(self, node: str, **what: bool) -> None:
        with self.changed:
            self.settle()
            host = self._hosts[node]
            was_up = host.up
            if was_up:
                host.node = self._seen(host)
            for key, value in what.items():
                setattr(host, key, value)
            if host.up and not was_up:
                self._hear(host)
            elif was_up and not host.up:
                for status in self._may_run_on(node):
                    self._know(replace(status, state=RankState.UNREACHABLE))
            self._tell()

    def _hear(self, host: _Host) -> None:
        """Let a node hear what it has missed, and then tell the state of its ranks."""
        host.fences |= self.fences
        node = host.node.name
        for name in [name for name in self._off if name in self._true and self._true[name].node == node]:
            self._end(name, RankState.EXITED, -signal.SIGKILL, time.time())
            self._off.discard(name)
            if name not in self.statuses:  # forgotten meanwhile
                del self._true[name]
        for status in self._may_run_on(node):
            if status.name in self._true:
                self._know(self._true[status.name])
            elif status.name in self._orders:
                self._know(replace(status, state=RankState.STARTING))
        self.settle()

    def _start(self, spec: RankSpec) -> None:
        fence = self._hosts[spec.node].fences.get(spec.name.gang, 0)
        try:
            if fence > spec.name.epoch:
                raise EngineError(f"{spec.name} is refused: {spec.name.gang} is at epoch {fence}")
            part = self._play(spec)
        except EngineError as error:
            self._know(not_started(spec, error))
            return
        self._pids += 1
        now_s = time.time()
        uuids = tuple(f"GPU-{spec.node}-{gpu}" for gpu in spec.gpus)
        status = RankStatus(spec.name, spec.node, RankState.RUNNING, self._pids, None, now_s, math.nan, gpus=uuids)
        self._true[spec.name] = status
        self._parts[spec.name] = part
        self.logs[spec.name] = bytearray(part.says)
        self._writes[spec.name] = [(0, now_s)]
        self.starts.append((spec.name, spec.node))
        self._know(status)
        if part.lasts_s < math.inf:
            heapq.heappush(self._ends, (now_s + part.lasts_s, spec.name))

    def _end(self, name: RankName, state: RankState, code: int | None, ended_s: float) -> None:
        status = self._true.get(name)
        if status is None or status.state is not RankState.RUNNING:
            return
        self._true[name] = replace(status, state=state, code=code, ended_s=max(ended_s, status.started_s))
        if self._hosts[status.node].up and name not in self._off:
            self._know(self._true[name])

    def _know(self, status: RankStatus) -> RankStatus:
        self.statuses[status.name] = status
        self._tell()
        return status

    def _may_run_on(self, node: str) -> Sequence[RankStatus]:
        return [status for status in self.statuses.values() if status.node == node and status.state.may_run]

    def _seen(self, host: _Host) -> EngineNode:
        seen_s = time.time() if host.up else host.node.seen_s
        return replace(host.node, up=host.up, incarnation=f"{host.boots}.{host.agents}", seen_s=seen_s)

    def _tell(self) -> None:
        self.version += 1
        self.changed.notify_all()


def _node(name: str, node: int | EngineNode) -> EngineNode:
    return node if isinstance(node, EngineNode) else EngineNode(name, node)
