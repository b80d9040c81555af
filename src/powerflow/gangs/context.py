"""Define the data that all gangs of a cluster share: the state of all ranks, the owner of each GPU, and the engine."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import pwd
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from powerflow.agent.external import EXTERNAL_JOB
from powerflow.api.command import RunCommand, command
from powerflow.api.job_spec import JobSpec
from powerflow.api.output_path import output_path
from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import CHECKPOINT_DIR, JOB_DIR, RANK_NAME, Mailbox
from powerflow.engine.protocol import Engine, EngineError, EngineNode, RankName, RankSpec, RankState, RankStatus
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.log_matcher import Matcher
from powerflow.gangs.rendezvous import MeetingProbe
from powerflow.gangs.state_file import RankEntry
from powerflow.gangs.types import DesiredState, Limits

#: (job id, spec, node, GPUs that a rank may see, name of the rank) → environment of the rank, with the spec's ``env``.
Environment = Callable[[str, JobSpec, str, tuple[int, ...], RankName], Mapping[str, str]]

#: Variables of each rank that say which job it belongs to; those of an array are set only for its tasks.
JOB_ID, JOB_NAME, JOB_USER = "POWERFLOW_JOB_ID", "POWERFLOW_JOB_NAME", "POWERFLOW_JOB_USER"
ARRAY_ID, ARRAY_TASK = "POWERFLOW_ARRAY_JOB_ID", "POWERFLOW_ARRAY_TASK_ID"

#: Variable with the numbers, on its node, of the GPUs that a process computes on.
GPUS = "POWERFLOW_GPUS"
#: Variables with the address at which other nodes reach a rank, and the network interface of this address.
ADDRESS, INTERFACE = "POWERFLOW_ADDRESS", "POWERFLOW_INTERFACE"
#: Variables that tell gloo and NCCL which interface to use.
_SOCKETS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
#: A node that has answered this many seconds later than another one is not cut off by the same fault.
_LATER_S = 2.0
#: Address of each node if there is one machine only.
LOOPBACK = "127.0.0.1"


class GangContext:
    """The data that all gangs of a cluster share; `powerflow.gangs.manager.Gangs` describes the arguments.

    Attributes:
        statuses: State of each rank in the engine's last answer, by job id and rank name.
        nodes: The nodes in the engine's last answer, by name.
        down: Names of the nodes that do not answer.
        unsteady: Names of the nodes that answer, but perhaps not for long: the controller itself may be cut off, or may
            have been a moment ago. Then all nodes fall silent, or answer again, one soon after the other.
        off: Names of the nodes that do not answer and that an operator has declared off.
        owners: For each GPU on which a process may be: the id of the job that the process belongs to.
        alive_s: When a rank of each job was last seen to run, Unix seconds.
    """

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        environment: Environment,
        limits: Limits,
        interpreter: str,
        clock: Callable[[], float],
        look_at_ranks: MeetingProbe,
        wall_clock: Callable[[], float] = time.time,
        shared: Path | None = None,
    ) -> None:
        self.engine = engine
        self.directory = directory
        self.limits = limits
        self.clock = clock
        self.wall_clock = wall_clock
        self.look_at_ranks = look_at_ranks
        self.matcher = Matcher()
        self.statuses: dict[str, dict[str, RankStatus]] = {}
        self.nodes: dict[str, EngineNode] = {}
        self.down: frozenset[str] = frozenset()
        self.unsteady: frozenset[str] = frozenset()
        self._up_s: dict[str, float] = {}  # since when each node that answers has answered
        self.off: set[str] = set()
        self.owners: dict[Place, str] = {}
        self.alive_s: dict[str, float] = {}
        self._environment = environment
        self.interpreter = interpreter
        self.shared = shared

    def look(self) -> None:
        """Ask the engine for the state of all nodes and ranks.

        Raises:
            EngineError: The engine does not answer.
        """
        nodes = {node.name: node for node in self.engine.nodes()}
        statuses: dict[str, dict[str, RankStatus]] = {}
        running: set[str] = set()
        for status in self.engine.ranks():
            statuses.setdefault(status.name.gang, {})[str(status.name)] = status
            if status.state is RankState.RUNNING:
                running.add(status.name.gang)
        self.alive_s |= dict.fromkeys(running, self.wall_clock())
        self.nodes, self.statuses = nodes, statuses  # replaced as a whole, because other threads read them
        self.down = frozenset(name for name, node in nodes.items() if not node.up)
        self.off &= self.down
        now = self.clock()
        self._up_s = {name: self._up_s.get(name, now) for name, node in nodes.items() if node.up}
        silent_s = max((node.seen_s for node in nodes.values() if not node.up and node.seen_s > 0), default=-math.inf)
        self.unsteady = frozenset(
            name
            for name, since_s in self._up_s.items()
            if now < since_s + self.limits.calm_s or nodes[name].seen_s < silent_s + _LATER_S
        )

    def address(self, node: str) -> str:
        """Return the address at which ranks on other nodes reach ranks on this node."""
        return self.nodes[node].address if node in self.nodes else LOOPBACK

    def is_local(self, node: str) -> bool:
        """Return True if the processes of a node are processes of this machine."""
        return self.address(node).startswith("127.")

    def last_lines(self, name: str, count: int = 20) -> tuple[str, ...]:
        """Return the last lines of a rank's log; no lines if the log cannot be read."""
        try:
            piece, _ = self.engine.log(RankName.parse(name), -8192, 8192)
        except (KeyError, ValueError, EngineError, OSError):
            return ()
        return tuple(piece.decode("utf-8", "replace").splitlines()[-count:])

    def record_path(self, job_id: str) -> Path:
        """Return the path of the gang record of a job."""
        return self.directory / "gangs" / f"{job_id}.json"

    def starts_path(self, job_id: str) -> Path:
        """Return the path of the file with the starts of a job."""
        return self.directory / "gangs" / f"{job_id}.attempts.json"

    def mailbox(self, job_id: str) -> Mailbox:
        """Return a job's mailbox."""
        return Mailbox(self.directory / "jobs" / job_id)

    def mailbox_user(self, desired: DesiredState) -> str:
        """Return the login that uses the controller's copy of a job's mailbox; "" if only the controller does."""
        return desired.user if self.engine.shares_mailboxes and not desired.spec.external else ""

    def working_directory(self, desired: DesiredState) -> Path:
        """Return the folder in which a job's ranks start."""
        return Path(desired.spec.directory or self.mailbox(desired.job_id).directory.absolute())

    def keeps_apart(self, desired: DesiredState) -> bool:
        """Return True if a job keeps its checkpoints in another folder than that of its mailbox."""
        return desired.spec.checkpoint.dir is not None or self.shared is not None

    def checkpoint_dir(self, desired: DesiredState) -> Path:
        """Return the folder in which a job keeps its checkpoints.

        The job's user chooses this path. So only the job's ranks, which run as this user, read or write in the folder.
        """
        named = desired.spec.checkpoint.dir
        if named is None and self.shared is not None:
            return self.shared / f"job-{desired.job_id}"
        if named is None:
            return self.mailbox(desired.job_id).directory.absolute()
        return self.working_directory(desired) / named

    def launch(
        self, desired: DesiredState, plans: Sequence[tuple[StartPlan, RankEntry]], address: str
    ) -> Sequence[RankStatus]:
        """Begin to start ranks of a job in one batch, and return their statuses; their nodes may answer later.

        Args:
            desired: Desired state of the job's gang.
            plans: How each rank is started, with its node and its own GPUs.
            address: Address of the node of the gang's first rank.

        Raises:
            EngineError: No rank can be started, because the engine does not answer.
            OSError: The job's directory cannot be made.
        """
        prepare(self.mailbox(desired.job_id), self.mailbox_user(desired))
        specs = [self._spec(desired, plan, entry, address) for plan, entry in plans]
        statuses = self.engine.launch_all(specs)
        known = self.statuses.setdefault(desired.job_id, {})
        for status, (_, entry) in zip(statuses, plans, strict=True):
            known[str(status.name)] = status
            if status.state.may_run:
                self.owners.update({(entry.node, gpu): desired.job_id for gpu in entry.gpus})
        return statuses

    def _spec(self, desired: DesiredState, plan: StartPlan, entry: RankEntry, address: str) -> RankSpec:
        name, spec = RankName.parse(plan.name), desired.spec
        if spec.external:
            job = {EXTERNAL_JOB: spec.run}
            return RankSpec(name=name, node=entry.node, command=(), env=job, directory="", gpus=entry.gpus)
        told = self._environment(desired.job_id, spec, entry.node, plan.seen, name)
        line = RunCommand(plan.command, False) if plan.command else command(spec.run, self.interpreter)
        env = {
            "MASTER_ADDR": address,
            **self._sockets(entry.node),
            **told,
            JOB_DIR: str(self.mailbox(desired.job_id).directory.absolute()),
            RANK_NAME: str(name),
            CHECKPOINT_DIR: str(self.checkpoint_dir(desired)),
            GPUS: ",".join(map(str, entry.gpus)),
            **plan.environment,
        }
        if not self.is_local(entry.node):
            env |= {ADDRESS: self.nodes[entry.node].address, INTERFACE: self.nodes[entry.node].interface}
        return RankSpec(
            name=name,
            node=entry.node,
            command=line.argv,
            env=env,
            directory=str(self.working_directory(desired)),
            gpus=entry.gpus,
            user=desired.user,
            memory_bytes=spec.limits.memory or 0,
            cpus=spec.limits.cpus or 0.0,
            python=line.python,
            output=_output(spec, name, entry.node, told),
        )

    def _sockets(self, node: str) -> dict[str, str]:
        """Return the variables that tell gloo and NCCL a node's interface; the job may set them otherwise."""
        return {} if self.is_local(node) else dict.fromkeys(_SOCKETS, self.nodes[node].interface)


def _output(spec: JobSpec, rank: RankName, node: str, told: Mapping[str, str]) -> str:
    """Return the path of the file that gets a rank's output; "" if the job names none."""
    if spec.output is None:
        return ""
    return output_path(spec.output, {**job_values(rank.gang, told), "N": node, "t": str(rank.number)})


def job_values(job_id: str, told: Mapping[str, str]) -> dict[str, str]:
    """Return what the codes of an output path stand for, except node and rank, given the environment of the job."""
    return {
        "j": job_id,
        "A": told.get(ARRAY_ID, job_id),
        "a": told.get(ARRAY_TASK, "0"),
        "x": told.get(JOB_NAME, ""),
        "u": told.get(JOB_USER, ""),
    }


def prepare(mailbox: Mailbox, user: str) -> None:
    """Make the directory of a job's mailbox if it does not exist; only the job's user gets access to it.

    Raises:
        OSError: The directory cannot be made.
        EngineError: There is no login with the name ``user``.
    """
    with contextlib.suppress(FileNotFoundError), open_folder(mailbox.directory / "ranks"):
        return
    mailbox.create()
    if user and os.geteuid() == 0:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise EngineError(f"there is no user {user!r} on this machine") from None
        for path in (mailbox.directory / "ranks", mailbox.directory):
            with open_folder(path) as folder:
                os.fchmod(folder, 0o700)
                os.fchown(folder, account.pw_uid, account.pw_gid)


@contextlib.contextmanager
def spoiling() -> Iterator[None]:
    """Turn the errors of a damaged mailbox into an `EngineError`, which fails the job. Use it in a ``with`` statement.

    Raises:
        EngineError: The user has put a folder in place of a file, or something else in place of a folder.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY):
            raise EngineError(
                f"somebody has replaced a file of its mailbox ({error.strerror}: {error.filename})"
            ) from error
        raise


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder, but refuse a link, because a job's user may replace the folder by a link at any moment.

    Raises:
        OSError: The path does not exist, or is no folder.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)
