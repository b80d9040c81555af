"""Define the data that all gangs of a cluster share: the state of all ranks, the owner of each GPU, and the engine."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from powerflow.api.command import RunCommand, command
from powerflow.api.job_spec import JobSpec
from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import CHECKPOINT_DIR, JOB_DIR, RANK_NAME, Mailbox
from powerflow.engine.protocol import Engine, EngineError, RankName, RankSpec, RankState, RankStatus
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.log_matcher import Matcher
from powerflow.gangs.rendezvous import MeetingProbe
from powerflow.gangs.types import DesiredState, Limits

#: (job id, spec, node, GPUs that a rank may see, name of the rank) → environment of the rank, with the spec's ``env``.
Environment = Callable[[str, JobSpec, str, tuple[int, ...], RankName], Mapping[str, str]]

#: Variable with the numbers, on its node, of the GPUs that a process computes on.
GPUS = "POWERFLOW_GPUS"


class GangContext:
    """The data that all gangs of a cluster share; `powerflow.gangs.manager.Gangs` describes the arguments.

    Attributes:
        statuses: State of each rank in the engine's last answer, by job id and rank name.
        owners: For each GPU with a living process: the id of the job that the process belongs to.
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
    ) -> None:
        self.engine = engine
        self.directory = directory
        self.limits = limits
        self.clock = clock
        self.look_at_ranks = look_at_ranks
        self.matcher = Matcher()
        self.statuses: dict[str, dict[str, RankStatus]] = {}
        self.owners: dict[Place, str] = {}
        self._environment = environment
        self.interpreter = interpreter

    def look(self) -> None:
        """Ask the engine for the state of all ranks.

        Raises:
            EngineError: The engine does not answer.
        """
        statuses: dict[str, dict[str, RankStatus]] = {}
        for status in self.engine.ranks():
            statuses.setdefault(status.name.gang, {})[str(status.name)] = status
        self.statuses = statuses  # replaced as a whole, because other threads read it

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

    def mailbox(self, job_id: str) -> Mailbox:
        """Return a job's mailbox."""
        return Mailbox(self.directory / "jobs" / job_id)

    def working_directory(self, desired: DesiredState) -> Path:
        """Return the folder in which a job's ranks start."""
        return Path(desired.spec.directory or self.mailbox(desired.job_id).directory.absolute())

    def checkpoint_dir(self, desired: DesiredState) -> Path:
        """Return the folder in which a job keeps its checkpoints.

        The job's user chooses this path. So only the job's ranks, which run as this user, read or write in the folder.
        """
        named = desired.spec.checkpoint.dir
        if named is None:
            return self.mailbox(desired.job_id).directory.absolute()
        return self.working_directory(desired) / named

    def launch(self, desired: DesiredState, plan: StartPlan, node: str, own: tuple[int, ...]) -> None:
        """Start one rank of a job on the GPUs ``own`` of a node.

        Raises:
            EngineError: The engine cannot start the rank.
            OSError: The job's directory cannot be made.
        """
        name, spec = RankName.parse(plan.name), desired.spec
        mailbox = self.mailbox(desired.job_id)
        prepare(mailbox, desired.user)
        if plan.command:
            line = RunCommand(plan.command, False)
        else:
            line = command(spec.run, self.interpreter, own_path="PATH" in spec.env)
        env = {
            "MASTER_ADDR": "127.0.0.1",
            **self._environment(desired.job_id, spec, node, plan.seen, name),
            JOB_DIR: str(mailbox.directory.absolute()),
            RANK_NAME: str(name),
            CHECKPOINT_DIR: str(self.checkpoint_dir(desired)),
            GPUS: ",".join(map(str, own)),
            **plan.environment,
        }
        status = self.engine.launch(
            RankSpec(
                name=name,
                node=node,
                command=line.argv,
                env=env,
                directory=str(self.working_directory(desired)),
                gpus=own,
                user=desired.user,
                memory_bytes=spec.limits.memory or 0,
                cpus=spec.limits.cpus or 0.0,
                python=line.python,
            )
        )
        self.statuses.setdefault(name.gang, {})[str(name)] = status
        if status.state is RankState.RUNNING:
            self.owners.update({(node, gpu): desired.job_id for gpu in own})


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
