"""Define the engine, the part that runs the processes of jobs.

An engine may start local processes, or use Ray, Slurm or Kubernetes. A **rank** is one process on one node, together
with all processes that it starts. A **gang** is all ranks of one job. The caller gives each rank its name. If the same
name is launched twice, only one process starts.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from powerflow.engine.shells import Shells


class RankName(NamedTuple):
    """Name of a rank: its gang (job), the epoch (number of the gang's placement), and the rank's number in it."""

    gang: str
    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.gang}.{self.epoch}.{self.number}"

    @staticmethod
    def parse(text: str) -> RankName:
        """Return the rank name that a text such as ``gang.3.0`` (gang, epoch, number) stands for.

        Raises:
            ValueError: The text is not a rank name.
        """
        gang, epoch, number = text.rsplit(".", 2)
        return RankName(gang, int(epoch), int(number))


class RankState(StrEnum):
    """State of a rank.

    A lost rank does not run any more, and this is proven: its node answers again after a restart and does not know the
    rank, or an operator has said that the node is off. A node that does not answer proves nothing, because its ranks
    may run on: they are unreachable, and their GPUs stay taken.
    """

    STARTING = "starting"  # the launch was accepted, but the node has not confirmed it yet
    NOT_STARTED = "not started"  # it could not be started (`RankStatus.why`); its name may be launched again
    RUNNING = "running"
    UNREACHABLE = "unreachable"  # its node does not answer; it may run
    EXITED = "exited"
    LOST = "lost"  # it does not run any more, but nobody knows how it ended

    @property
    def may_run(self) -> bool:
        """True if a process of the rank may be alive, so that its GPUs are taken."""
        return self in (RankState.STARTING, RankState.RUNNING, RankState.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class RankSpec:
    """Description of a rank to launch: what to run, on which node, and as which user.

    Attributes:
        name: Name of the rank. A later launch with the same name starts nothing.
        node: Name of the node to run on.
        command: Program and its arguments. No shell interprets them. Empty: the rank is external, see
            `powerflow.agent.external`.
        env: All environment variables of the process; it inherits no others.
        directory: Working directory; "" for the folder of the gang's mailbox on the node.
        user: Login name of the user to run as, who must not have more rights than the engine's user. "" for the
            engine's user.
        memory_bytes: Limit of memory in bytes; 0 for none. Enforced only if `Engine.limits` contains "memory".
        cpus: Limit of CPUs; 0 for none. Enforced only if `Engine.limits` contains "cpus".
        python: True if ``command`` is ``[python, script, …]`` and the engine may run it in an interpreter that has
            already imported modules.
        gpus: Numbers of the node's GPUs that the rank computes on.
        output: File that gets the rank's output, too, in addition to its log; the rank's user appends to it. A relative
            path starts at ``directory``. "" for no file. If it cannot be opened, the log says so, and the rank runs.
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
    gpus: tuple[int, ...] = ()
    output: str = ""


@dataclass(frozen=True, slots=True)
class RankStatus:
    """Status of one rank.

    Attributes:
        name: Name of the rank.
        node: Name of the node on which the rank runs or ran.
        state: State of the rank: it runs, has ended or is lost.
        pid: Process number of the rank on its node; 0 if the engine has no process numbers.
        code: Exit code; −N if signal N ended the rank (as in `subprocess`). None while the rank runs or if it is lost.
        started_s, ended_s: Start and end of the rank, Unix seconds; ``ended_s`` is nan while the rank runs.
        rebooted: True if the rank ended because its machine went down. The machine has been booted again since then.
        gpus: UUIDs of the GPUs that the node has given to the rank.
        why: Why the rank could not be started; "" if it was started.
        retry: True if a rank that could not be started may start later, when it is launched again.
        final: True if each further launch of a rank that could not be started would fail in the same way: its program
            or directory does not exist, for example.
        out_of_memory: True if the kernel has killed a process of the rank for lack of memory, False if it has not; None
            while the rank runs, or if the engine does not know.
    """

    name: RankName
    node: str
    state: RankState
    pid: int
    code: int | None
    started_s: float
    ended_s: float
    rebooted: bool = False
    gpus: tuple[str, ...] = ()
    why: str = ""
    retry: bool = False
    final: bool = False
    out_of_memory: bool | None = None


@dataclass(frozen=True, slots=True)
class EngineNode:
    """A node of an engine. A node that has left the cluster in order is not listed any more.

    Attributes:
        name: Name of the node.
        gpus: Number of its GPUs.
        up: True if the node answers now.
        gpu_type: Type of its GPUs; "" if the engine does not know it.
        address: Address at which ranks on other nodes reach ranks on this node.
        interface: Network interface of this address, for gloo and NCCL.
        incarnation: Changes with each boot of the node and with each start of its agent; "" if there are no agents.
        labels: What the site says about the node: ``rack``, ``switch``, and others.
        versions: Versions of ``python``, ``torch`` and ``powerflow`` on the node; empty if unknown.
        seen_s: When the node last answered, Unix seconds by the clock of the controller; nan if unknown.
    """

    name: str
    gpus: int
    up: bool = True
    gpu_type: str = ""
    address: str = "127.0.0.1"
    interface: str = "lo"
    incarnation: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seen_s: float = math.nan


class EngineError(RuntimeError):
    """Error: the engine could not carry out a request.

    Attributes:
        retry: True if the same request may succeed later.
        final: True if each further request would fail in the same way.
    """

    def __init__(self, what: str, *, retry: bool = False, final: bool = False) -> None:
        super().__init__(what)
        self.retry, self.final = retry, final


class Fenced(EngineError):
    """Error: the engine refused a launch, because its epoch is lower than the gang's fence (lowest accepted epoch)."""


def not_started(rank: RankSpec | RankStatus, error: EngineError) -> RankStatus:
    """Return the status of a rank that could not be started because of an error."""
    now_s = time.time()
    status = RankStatus(rank.name, rank.node, RankState.NOT_STARTED, 0, None, now_s, now_s)
    return replace(status, why=str(error), retry=error.retry, final=error.final)


def launch_each(launch: Callable[[RankSpec], RankStatus], specs: Sequence[RankSpec]) -> list[RankStatus]:
    """Start ranks one after another with a function that waits; this is `Engine.launch_all` of a simple engine.

    Raises:
        Fenced: The epoch of a rank is lower than the fence of its gang. The ranks before it were launched.
    """

    def launched(spec: RankSpec) -> RankStatus:
        try:
            return launch(spec)
        except Fenced:
            raise
        except EngineError as error:
            return not_started(spec, error)

    return [launched(spec) for spec in specs]


class Engine(Protocol):
    """An object that runs ranks. Each method is idempotent: after a failure, the caller may call it again.

    Ranks continue to run when the process that started them ends. A new `Engine` object for the same cluster finds
    every rank that was launched and not deleted with `forget`, with its state.

    Attributes:
        shares_mailboxes: True if ranks read and write the caller's own copies of the jobs' mailboxes. Otherwise each
            node has copies of its own, and `post` sends to them.
    """

    shares_mailboxes: bool

    @property
    def shells(self) -> Shells | None:
        """What opens shells beside ranks; None if this engine cannot."""
        ...

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of this engine."""
        ...

    def limits(self) -> frozenset[str]:
        """Return the limits that this engine can enforce: some of "memory", "cpus" and "user"."""
        ...

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, and return its status. If a rank of this name was launched before, start nothing.

        Raises:
            Fenced: The epoch of the rank is lower than the fence of its gang.
            EngineError: The rank cannot be started: the node, command, directory or user does not exist, for example.
        """
        ...

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Begin to start ranks, without waiting for their nodes; return their statuses in the same order.

        A rank is ``STARTING`` until its node answers. Then it runs, or is ``NOT_STARTED`` with the reason.
        A name that was launched before keeps its status, unless it is ``NOT_STARTED``: then it is launched again.

        Raises:
            Fenced: The epoch of a rank is lower than the fence of its gang. No rank was launched.
        """
        ...

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node as its spec says, in one line; "" if nothing is known against it.

        The node is asked: does it have the user, the directory and the interpreter?

        Raises:
            EngineError: The node does not answer.
        """
        ...

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that an unreachable node is off: its ranks are ``LOST`` from now on.

        If the node answers later with ranks that still run, they are ended before anything else.

        Raises:
            EngineError: The node answers, or the engine does not have it.
        """
        ...

    def post(self, gang: str, file: str, text: str) -> None:
        """Pass a file of a job's mailbox on to the nodes of its gang, which may not share the caller's file system.

        The caller has written or deleted the file in its own copy of the mailbox. Nodes that get a rank of the gang
        later get all files of this copy. The call does not wait. What ranks write comes into the caller's copy by
        itself.

        Args:
            gang: Name of the gang.
            file: Path of the file below the folder of the mailbox.
            text: Content of the file; "" if it was deleted.
        """
        ...

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse later launches of a gang with an epoch lower than ``epoch`` (the fence). A fence is never lowered."""
        ...

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank and to all processes that descend from it; return False if the rank has ended.

        Descendants that have detached themselves from the rank get the signal, too.
        """
        ...

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not deleted with `forget`."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until the state of a rank may have changed; return False if no state changed before the timeout."""
        ...

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote to stdout and stderr, and the offset after this part.

        Args:
            name: Name of the rank.
            offset: Where the part begins, in bytes since the start of the log. If old output was deleted, its bytes
                still count, and reading begins at the first byte that is kept. A negative offset counts from the end.
            limit: Most bytes to return.

        Raises:
            KeyError: The engine does not know the rank.
        """
        ...

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins, as an offset for `log`.

        Earlier output may follow this offset: that of up to one second, or up to 512 bytes. But never less than all
        output since then follows. If nothing was written since then, this is the offset after the log's last byte.

        Args:
            name: Name of the rank.
            since_s: Unix seconds, by the clock of the rank's node.

        Raises:
            KeyError: The engine does not know the rank.
            EngineError: The times of the output are not known, or the node does not answer.
        """
        ...

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended. If the rank runs, do nothing."""
        ...

    def notices(self) -> Sequence[str]:
        """Return what operators should know about the nodes, one line each."""
        ...

    def close(self) -> None:
        """Disconnect from the engine; its ranks continue to run."""
        ...
