"""Run the gangs of a cluster: bring each job to its desired state, and report as events what its ranks do.

This module never waits, and does not decide which job gets which GPU. `Gangs.poll` compares the desired state of every
job with its processes, and takes the next actions. Later actions follow in the next call. Some facts must outlive the
controller: which rank is on which GPU, and which ranks were told to leave. A gang writes them to its gang record (a
file) before it acts on them. So a new `Gangs` object for the same directory continues where the old one was killed.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from powerflow.api.job_spec import JobSpec
from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import RankReport
from powerflow.engine.protocol import Engine, EngineError, RankName, RankState, RankStatus
from powerflow.errors import InputError
from powerflow.gangs.base import Gang
from powerflow.gangs.context import Environment, GangContext
from powerflow.gangs.external import External
from powerflow.gangs.inplace import InPlace
from powerflow.gangs.machine import ENDED, ENDING, GangState
from powerflow.gangs.rendezvous import MeetingProbe, look
from powerflow.gangs.report_reader import ReportReader
from powerflow.gangs.restart import Scripts
from powerflow.gangs.starts import Start, read_starts
from powerflow.gangs.state_file import GangFailure, GangRecord
from powerflow.gangs.types import DesiredState, GangEvent, Limits

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LIMITS = Limits()
#: Gangs that are no `Scripts`, by the job's ``rescale``.
_KINDS: Mapping[str, type[Gang]] = {"in-place": InPlace, "external": External}
#: Characters that are kept of what a defect says.
DEFECT_CHARS = 500


class Gangs:
    """Run all gangs of one cluster.

    Args:
        engine: Runs the ranks.
        directory: Holds ``jobs/<job id>/`` (mailboxes, which the jobs' users may write) and ``gangs/<job id>.json``
            (gang records, which only the controller may write).
        environment: See `Environment`. Variables that gangs add (job directory, rank name, RANK, MASTER_PORT …) replace
            variables of the same name, except MASTER_ADDR.
        limits: Time limits, and other limits.
        interpreter: Path of the Python that is run if a job's command says ``python``. Its scripts may run in a process
            that has already loaded modules.
        clock: Returns seconds on a clock that never goes back.
        wall_clock: Returns Unix seconds.
        on_defect: Called with the job id and the exception when a defect of PowerFlow breaks off the turn of one job.
        look_at_ranks: Looks into the processes of scripts, to see whether they have connected to each other.
        shared: Folder that all nodes share, for the checkpoints of jobs that name no folder; None for the mailboxes.
    """

    def __init__(
        self,
        engine: Engine,
        directory: str | os.PathLike[str],
        environment: Environment,
        *,
        limits: Limits = _LIMITS,
        interpreter: str = sys.executable,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        on_defect: Callable[[str, Exception], None] = lambda job_id, error: None,
        look_at_ranks: MeetingProbe = look,
        shared: Path | None = None,
    ) -> None:
        self._on_defect = on_defect
        self._context = GangContext(
            engine, Path(directory), environment, limits, interpreter, clock, look_at_ranks, wall_clock, shared
        )
        self._gangs: dict[str, Gang] = {}
        self._engine_trouble = ""
        self._to_forget: set[str] = set()  # ended jobs, some of whose ranks may run
        self._torn: dict[str, str] = {}  # jobs whose record cannot be read, and why

    @property
    def most_grace_s(self) -> float:
        """Most seconds that a job gets to save and leave, even if the job asks for more."""
        return self._context.limits.grace_s

    def epoch_of(self, job_id: str) -> int:
        """Return the epoch (number of the placement) that a job's gang has taken last; -1 if it has taken none.

        Raises:
            OSError: The gang record cannot be read.
        """
        return self._record(job_id).epoch

    def adopt(self, desired: Sequence[DesiredState]) -> None:
        """Take over the ranks of an earlier controller.

        Ranks that run well are left untouched. Ranks of jobs that are not in ``desired`` are ended.

        Args:
            desired: The last desired states of all jobs that have not ended.

        Raises:
            EngineError: The engine does not answer.
            OSError: A gang record cannot be read.
        """
        self._context.look()
        self.apply(desired)
        self._take_strays()
        self._see_owners()

    def _take_strays(self) -> None:
        """End the ranks of jobs that have no gang. Their node may have been away when their job ended."""
        for job_id, ranks in [*self._context.statuses.items()]:
            if job_id not in self._gangs and any(status.state.may_run for status in ranks.values()):
                epoch = max(status.name.epoch for status in ranks.values())
                self._gang(DesiredState(job_id, epoch, JobSpec(run="true"), ())).kill()
        for gang in self._gangs.values():
            gang.outage.complete(gang.record, gang.unsent)

    def apply(self, desired: Sequence[DesiredState]) -> None:
        """Accept new desired states of jobs, for `poll` to carry out. A state older than the job's last one is ignored.

        Raises:
            InputError: A job id cannot be the name of a file.
            OSError: A gang record cannot be read.
        """
        for each in desired:
            gang = self._gang(each)
            gang.take(each)
            if why := self._torn.pop(each.job_id, ""):  # nobody knows which ranks it has, and where: it cannot go on
                gang.fire(GangFailure(None, why, final=True))

    def kill(self, job_id: str) -> None:
        """End a job now: send SIGTERM to its ranks, give them time to save, then send SIGKILL.

        The event `Vacated` follows when no process of the job runs. Nothing happens for a job without a gang.
        """
        if job_id in self._gangs:
            self._gangs[job_id].kill()

    def poll(self) -> list[GangEvent]:
        """Let each gang whose time has come take its next actions; return the events since the last call, in order.

        Actions that failed are in `troubles`; the next call repeats them.
        """
        try:
            self._context.look()
            self._engine_trouble = ""
        except EngineError as error:
            self._engine_trouble = f"the engine does not answer: {error}"
            return []
        try:
            self._take_strays()
        except OSError as error:
            self._engine_trouble = f"a gang record cannot be read: {error}"
        self._see_owners()
        events: list[GangEvent] = []
        # gangs that have GPUs to give back first, so that others may get them in the same turn
        for gang in sorted(self._gangs.values(), key=lambda gang: not gang.record.ranks):
            if not gang.due:
                continue
            try:
                gang.turn()
            except (EngineError, OSError) as error:
                gang.trouble = str(error)
                gang.soon()
            except Exception as error:  # a defect, brought out by what one job wrote, says or is: only that job ends
                self._on_defect(gang.job_id, error)
                gang.collapse(f"internal: {type(error).__name__}: {error}"[:DEFECT_CHARS])
        # collected after all turns: each event is returned once, and must not be lost if a turn fails
        for gang in self._gangs.values():
            events += gang.events
            gang.events = []
        self._see_owners()
        for job_id in [job_id for job_id in self._to_forget if job_id not in self._gangs or self._gangs[job_id].quiet]:
            self.forget(job_id)
        return events

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that a node which does not answer is off: none of its ranks runs any more.

        Raises:
            EngineError: The node answers, or there is no such node.
        """
        self._context.engine.declare_off(node)
        self._context.off.add(node)

    def troubles(self) -> dict[str, str]:
        """Return the actions that failed in the last `poll`, by job id. The id "" stands for the whole engine.

        Jobs that have ended are left out.
        """
        found = {job_id: gang.trouble for job_id, gang in self._gangs.items() if gang.trouble and not gang.quiet}
        return {"": self._engine_trouble, **found} if self._engine_trouble else found

    def holding(self) -> dict[Place, str]:
        """Return the GPUs on which a process might be at the last `poll`, each with the id of the process's job.

        A process on a node that does not answer may be alive.
        """
        return dict(self._context.owners)

    def on_their_way(self) -> list[str]:
        """Return the jobs that were between two placements at the last `poll`: their gangs need further turns."""
        done = ENDED | ENDING | {GangState.FINISHING}
        return [job_id for job_id, gang in self._gangs.items() if gang.state not in done and gang.view().on_its_way]

    def standing(self, job_id: str) -> list[dict[str, Any]]:
        """Return the state of each rank of a job, as the engine reports it.

        A rank that runs also has the fields of its own report.
        """
        names = self.ranks(job_id)
        known = self._context.statuses.get(job_id, {})
        said = ReportReader(self._context.mailbox(job_id)).read([name for name in names if name in known])
        return [_standing(name, known.get(name), said.get(name)) for name in names]

    def ranks(self, job_id: str) -> list[str]:
        """Return the names of all ranks of a job that may have a log.

        Ranks of the gang come first, then those that it goes on without, then ended ranks, the latest first.
        """
        gang = self._gangs.get(job_id)
        record = gang.record if gang is not None else self._record(job_id)
        members = list(record.members)  # the loop may change the record while another thread asks
        others = [name for name in list(record.ranks) if name not in members]
        return [*members, *others, *list(record.cut), *reversed(list(record.ended))]

    def members(self, job_id: str) -> list[str]:
        """Return the names of the ranks that form the gang of a job now, in order; [] between two placements."""
        gang = self._gangs.get(job_id)
        if gang is None:
            return []
        leaving = list(gang.record.leaving)
        return [name for name in list(gang.record.members) if name not in leaving]

    def log(self, job_id: str, rank: str | None = None, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of a rank's log, as `Engine.log` does.

        If ``rank`` is None, take the first of the job's `ranks`.

        Raises:
            KeyError: The job has no rank with this name.
        """
        ranks = self.ranks(job_id)
        name = rank if rank is not None else ranks[0] if ranks else None
        if name is None or name not in ranks:
            raise KeyError(rank)
        return self._context.engine.log(RankName.parse(name), offset, limit)

    def log_offset(self, rank: str, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins, as `Engine.log_offset` does."""
        return self._context.engine.log_offset(RankName.parse(rank), since_s)

    def starts(self, job_id: str) -> list[Start]:
        """Return the starts of a job whose logs are kept, the earliest first, without ranks that never started."""
        found = read_starts(self._context.starts_path(job_id))
        if not found:  # an earlier version ran the job
            found = [Start(1, self.ranks(job_id)[:1])]
        started = [Start(each.number, [*filter(partial(self.rank_of, job_id), each.ranks)]) for each in found]
        return [start for start in started if start.ranks]

    def last_end_s(self, job_id: str) -> float | None:
        """Return when the last rank of a job ended, Unix seconds; None if nobody knows it.

        The clock of a rank's machine may be wrong. So the time is at least that at which a rank was last seen to run.
        """
        ranks = list(self._context.statuses.get(job_id, {}).values())
        ends = [rank.ended_s for rank in ranks if rank.state is RankState.EXITED and math.isfinite(rank.ended_s)]
        newest = max((rank.name.epoch for rank in ranks), default=0)
        if not ends or any(rank.state is RankState.LOST and rank.name.epoch == newest for rank in ranks):
            return None
        return max(*ends, self._context.alive_s.get(job_id, -math.inf))

    def rank_of(self, job_id: str, name: str) -> RankStatus | None:
        """Return the state of a job's rank in the engine's last answer; None if it never started or is not known."""
        status = self._context.statuses.get(job_id, {}).get(name)
        return None if status is None or status.state is RankState.NOT_STARTED else status

    def last_lines(self, job_id: str, count: int = 20, rank: str | None = None) -> list[str]:
        """Return the last lines that a rank of a job wrote; [] if there are no lines."""
        try:
            piece, _ = self.log(job_id, rank, -8192, 8192)
        except (KeyError, EngineError):
            return []
        return piece.decode("utf-8", "replace").splitlines()[-count:]

    def forget(self, job_id: str) -> None:
        """Delete the logs and the gang record of a job that has ended, once it has no process."""
        gang = self._gangs.get(job_id)
        if gang is not None and not gang.quiet:
            self._to_forget.add(job_id)
            return
        self._to_forget.discard(job_id)
        for name in self.ranks(job_id):
            self._context.engine.forget(RankName.parse(name))
        self._gangs.pop(job_id, None)
        self._context.alive_s.pop(job_id, None)
        self._context.record_path(job_id).unlink(missing_ok=True)
        self._context.starts_path(job_id).unlink(missing_ok=True)

    def close(self) -> None:
        """End the process and the thread that match log lines. The ranks of all jobs continue."""
        self._context.matcher.close()

    def _gang(self, desired: DesiredState) -> Gang:
        gang = self._gangs.get(desired.job_id)
        if gang is None:
            kind = _KINDS.get(desired.spec.rescale, Scripts)
            gang = self._gangs[desired.job_id] = kind(self._context, desired, self._record(desired.job_id))
        return gang

    def _record(self, job_id: str) -> GangRecord:
        if not _JOB_ID.fullmatch(job_id):
            raise InputError(f"{job_id!r} cannot be a job's id", fix="use letters, digits, - and _")
        path = self._context.record_path(job_id)
        try:
            return GangRecord.load(path)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._torn[job_id] = f"its gang record {path} cannot be read ({type(error).__name__}: {error})"[
                :DEFECT_CHARS
            ]
            return GangRecord()

    def _see_owners(self) -> None:
        owners: dict[Place, str] = {}
        for job_id, gang in self._gangs.items():
            if gang.record.ranks or gang.record.cut:
                owners.update(dict.fromkeys(gang.view().taken, job_id))
        self._context.owners = owners


def _standing(name: str, known: RankStatus | None, said: RankReport | None) -> dict[str, Any]:
    if known is None:  # not launched yet, or ended so long ago that the engine has forgotten it
        return {"name": name, "state": "not known", "node": None, "pid": None, "code": None}
    runs = known.state is RankState.RUNNING
    state = "ended" if known.state is RankState.EXITED else known.state.value
    found = {"name": name, "state": state, "node": known.node, "pid": known.pid if runs else None, "code": known.code}
    if known.out_of_memory:
        found["out_of_memory"] = True
    if said is not None and runs:
        found |= {"phase": said.phase.value, "step": said.step, "generation": said.generation}
    return found
