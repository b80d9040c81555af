"""What all gangs share: the engine as it was last seen, who is on which GPU, and how a rank is started."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from powerflow.api.command import RunCommand, command
from powerflow.api.job_spec import JobSpec
from powerflow.elastic.mailbox import CHECKPOINT_DIR, JOB_DIR, RANK_NAME, Mailbox
from powerflow.engine.protocol import Engine, EngineError, RankName, RankSpec, RankState, RankStatus
from powerflow.gangs.log_matcher import Matcher
from powerflow.gangs.rendezvous import MeetingProbe
from powerflow.gangs.types import DesiredState, Limits, Slot

#: (job id, spec, node, GPUs the process may see, its name) → its whole environment, the spec's own ``env`` included.
Environment = Callable[[str, JobSpec, str, tuple[int, ...], RankName], Mapping[str, str]]

#: Numbers, on its node, of the GPUs that a process computes on.
GPUS = "POWERFLOW_GPUS"


class GangContext:
    """Shared by all gangs of a cluster; see `powerflow.gangs.manager.Gangs` for the arguments.

    Attributes:
        statuses: By gang and rank name, what the engine said last.
        owners: GPUs on which some process is alive, and whose.
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
        self.owners: dict[Slot, str] = {}
        self._environment = environment
        self.interpreter = interpreter

    def look(self) -> None:
        """Ask the engine how all ranks are.

        Raises:
            EngineError: If it does not answer.
        """
        statuses: dict[str, dict[str, RankStatus]] = {}
        for status in self.engine.ranks():
            statuses.setdefault(status.name.gang, {})[str(status.name)] = status
        self.statuses = statuses  # at once: other threads read it

    def running(self, name: RankName) -> bool:
        """Whether this rank is alive, as far as is known."""
        status = self.statuses.get(name.gang, {}).get(str(name))
        return status is not None and status.state is RankState.RUNNING

    def book_path(self, job_id: str) -> Path:
        """Where a job's book is kept."""
        return self.directory / "gangs" / f"{job_id}.json"

    def mailbox(self, job_id: str) -> Mailbox:
        """A job's mailbox."""
        return Mailbox(self.directory / "jobs" / job_id)

    def working_directory(self, order: DesiredState) -> Path:
        """Where a job's ranks start."""
        return Path(order.spec.directory or self.mailbox(order.job_id).directory.absolute())

    def checkpoint_dir(self, order: DesiredState) -> Path:
        """Where a job keeps its state: a path of its user's, so nobody but its ranks, which are theirs, uses it."""
        named = order.spec.checkpoint.dir
        if named is None:
            return self.mailbox(order.job_id).directory.absolute()
        return self.working_directory(order) / named

    def launch(
        self,
        order: DesiredState,
        name: RankName,
        node: str,
        own: tuple[int, ...],
        seen: tuple[int, ...],
        extra: Mapping[str, str],
        argv: tuple[str, ...] = (),
    ) -> None:
        """Start a rank on its ``own`` GPUs; ``seen`` are those it may see, ``argv`` replaces the job's ``run`` line.

        Raises:
            EngineError: If the engine cannot.
            OSError: If the job's directory cannot be made.
        """
        mailbox = self.mailbox(order.job_id)
        prepare(mailbox, order.user)
        own_path = "PATH" in order.spec.env
        line = RunCommand(argv, False) if argv else command(order.spec.run, self.interpreter, own_path=own_path)
        env = {
            "MASTER_ADDR": "127.0.0.1",
            **self._environment(order.job_id, order.spec, node, seen, name),
            JOB_DIR: str(mailbox.directory.absolute()),
            RANK_NAME: str(name),
            CHECKPOINT_DIR: str(self.checkpoint_dir(order)),
            GPUS: ",".join(map(str, own)),
            **extra,
        }
        status = self.engine.launch(
            RankSpec(
                name=name,
                node=node,
                command=line.argv,
                env=env,
                directory=str(self.working_directory(order)),
                user=order.user,
                memory_bytes=order.spec.limits.memory or 0,
                cpus=order.spec.limits.cpus or 0.0,
                python=line.python,
            )
        )
        self.statuses.setdefault(name.gang, {})[str(name)] = status
        if status.state is RankState.RUNNING:
            self.owners.update({(node, gpu): order.job_id for gpu in own})


def prepare(mailbox: Mailbox, user: str) -> None:
    """Make a job's directory, its user's alone, if it is not there.

    Raises:
        OSError: If that cannot be done.
        EngineError: If there is no such user.
    """
    with contextlib.suppress(FileNotFoundError):
        os.close(open_folder(mailbox.directory / "ranks"))
        return
    mailbox.create()
    if user and os.geteuid() == 0:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise EngineError(f"there is no user {user!r} here") from None
        for path in (mailbox.directory / "ranks", mailbox.directory):
            folder = open_folder(path)
            try:
                os.fchmod(folder, 0o700)
                os.fchown(folder, account.pw_uid, account.pw_gid)
            finally:
                os.close(folder)


@contextlib.contextmanager
def spoiling() -> Iterator[None]:
    """What is done with a job's mailbox.

    Raises:
        EngineError: Its user has put a folder in place of a file, or something else in place of a folder.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY):
            raise EngineError(f"its mailbox was changed by somebody ({error.strerror}: {error.filename})") from error
        raise


def open_folder(path: Path) -> int:
    """A folder to work in, as it is now: its user may put a link to anywhere in its place, at any moment.

    Raises:
        OSError: It is not there, or is no folder.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
