"""Gangs: what the controller wants of jobs becomes launches and mailbox targets; what is seen of them becomes facts.

Nothing here waits, and nothing decides who gets which GPU. `Gangs.poll` compares what every job shall have with what
its processes are, and takes the next step; calling it again takes the one after. What must outlive the controller
(which rank is on which GPU, who was told to leave) is written to the job's book before it is acted on, so a new
object over the same directory goes on where the old one was killed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from powerflow.elastic.mailbox import RankReport
from powerflow.engine.protocol import Engine, RankName
from powerflow.live.gang_facts import Fact, Limits, Order, Slot
from powerflow.live.spec import JobSpec

#: (job id, spec, node, GPUs the process may see, its name) → its whole environment, the spec's own ``env`` included.
Environment = Callable[[str, JobSpec, str, tuple[int, ...], RankName], Mapping[str, str]]


class Gangs:
    """All gangs of one cluster.

    Args:
        engine: Runs the ranks.
        directory: Holds ``jobs/<job id>/`` (mailboxes, which the jobs' users may write) and ``gangs/<job id>.json``
            (books, which only we may).
        environment: See `Environment`; what gangs add (job directory, rank name, RANK, MASTER_PORT …) wins over it.
        limits: How long to wait for what.
        interpreter: What a bare ``python`` in a job's command means; scripts for it may run in the preloaded one.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        engine: Engine,
        directory: str | os.PathLike[str],
        environment: Environment,
        *,
        limits: Limits = Limits(),
        interpreter: str = sys.executable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        raise NotImplementedError

    def adopt(self, orders: Sequence[Order]) -> None:
        """After a restart: the last orders of all jobs that have not ended. Ranks that run well are left untouched.

        Ranks of any other job are ended.
        """
        raise NotImplementedError

    def apply(self, orders: Sequence[Order]) -> None:
        """Take new orders; those older than what is known are ignored. They are carried out by `poll`."""
        raise NotImplementedError

    def kill(self, job_id: str) -> None:
        """End a job now: SIGTERM, its grace, SIGKILL; `Vacated` is told when nothing of it runs."""
        raise NotImplementedError

    def poll(self) -> list[Fact]:
        """Take the next step with every gang; what happened since the last call, in order."""
        raise NotImplementedError

    def holding(self) -> dict[Slot, str]:
        """GPUs on which a process of some job is alive, as the last `poll` saw it, and whose."""
        raise NotImplementedError

    def next_due_s(self) -> float:
        """When, on this object's clock, `poll` wants to be called again at the latest; inf: when there is news."""
        raise NotImplementedError

    def reports(self, job_id: str) -> list[RankReport]:
        """Where the ranks of a job stand, as they say; () for scripts that say nothing."""
        raise NotImplementedError

    def ranks(self, job_id: str) -> list[str]:
        """Names of a job's ranks whose logs are kept: those that run first, then the latest ended ones."""
        raise NotImplementedError

    def log(self, job_id: str, rank: str | None = None, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """What a rank wrote (None: the first of `ranks`), as `Engine.log` gives it.

        Raises:
            KeyError: If the job has no such rank.
        """
        raise NotImplementedError

    def last_lines(self, job_id: str, count: int = 20, rank: str | None = None) -> list[str]:
        """Last lines that a rank wrote; [] where there is nothing."""
        raise NotImplementedError

    def forget(self, job_id: str) -> None:
        """Drop logs and books of a job that has ended and of which nothing runs."""
        raise NotImplementedError
