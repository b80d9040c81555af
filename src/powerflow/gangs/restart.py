"""A gang whose ranks cannot change: it is stopped, and launched anew with what it has got.

``restart`` runs an unmodified script the way torchrun does (`powerflow.gangs.layout`), or a launcher on each node;
``none`` runs any command once, with all its GPUs. Both are stopped by SIGTERM, their grace, SIGKILL, and go on from a
checkpoint of their own, if they keep one. One rank that fails ends the others: none can do without it. Of what they do
only the log of the first tells, if the job says how to read it: where that tells no more steps, they hang.
"""

from __future__ import annotations

import math
import socket

from powerflow.api.patterns import shown
from powerflow.engine.protocol import EngineError, RankName, RankState
from powerflow.errors import InputError
from powerflow.gangs.base import Gang, how_it_ended
from powerflow.gangs.context import GangContext
from powerflow.gangs.layout import lay_out, notes, processes
from powerflow.gangs.log_progress import LogProgress
from powerflow.gangs.rendezvous import Meeting, MeetingState, RankProcess
from powerflow.gangs.report_bounds import MOST_COUNT
from powerflow.gangs.state_file import GangFailure, GangRecord
from powerflow.gangs.types import Continued, DesiredState, GangCompleted, Noted, Progressed, Rescaled, Started

#: Most bytes of a log that are read in one go, and how often in one turn.
_PIECE, _PIECES = 1 << 16, 8
_NEVER_MET = "call torch.distributed.init_process_group in it, or submit it with rescale: none"


class Scripts(Gang):
    """See the module."""

    def __init__(self, context: GangContext, order: DesiredState, book: GangRecord) -> None:
        super().__init__(context, order, book)
        self._told_epoch = -1
        self._told_step = (-1, -1)
        self._log: tuple[str, LogProgress] | None = None  # whose log is followed
        self._first: tuple[int, float] | None = None  # first step seen of this launch, and when
        self._formed = -1  # launch that this object began
        self._meeting: Meeting | None = None  # of the ranks of this launch
        self._still_s = 0.0  # since when its log has told no new step
        self._still_since_step = False  # whether that is since a step, or the launch: else, since we began to look

    def forgive(self) -> None:
        """Nothing to forgive: the first loss is the end."""

    def safe_steps(self) -> int | None:
        """Only the script knows."""
        return None

    def carry_out(self, now: float) -> None:
        """Launch the members."""
        entries = [(name, self.book.ranks[name].node, self.book.ranks[name].gpus) for name in self.book.members]
        try:
            plans = lay_out(self.order.spec, entries, self.book.port, self.context.interpreter)
        except InputError as error:
            self.fail(GangFailure(None, f"cannot be started: {error}", final=True))
            return
        for plan in plans:
            if not self.launch(plan.name, plan.seen, plan.environment, plan.command):
                break

    def decide(self, now: float) -> None:
        """See who ended and how, and go for the order."""
        book = self.book
        gone = [name for name in book.members if self.gone(name)]
        if not self._read_log(now, last=bool(book.members) and len(gone) == len(book.members)):
            self.soon()  # how far it came is being read
            return
        failed = next((name for name in gone if self.code(name) != 0 or self.rebooted(name)), None)
        stopped = bool(book.leaving)
        if failed is not None and not stopped:
            self.fail(GangFailure(self.code(failed), f"{failed} {how_it_ended(self.code(failed))}", failed))
            return
        if not stopped and self._end_if_apart(gone, now):
            return
        if book.members and len(gone) == len(book.members) and not stopped:
            book.done = True
            book.steps = self._told_step[1]
            self.clear()
        if book.done:
            if not self.running() and not self.told():
                self.facts.append(GangCompleted(self.job_id, book.steps if book.steps >= 0 else None))
            return
        if not stopped and self._end_if_hung(now):
            return
        if stopped and not self.running():
            self.clear()
        self._go_for_the_order(now)

    def _go_for_the_order(self, now: float) -> None:
        book = self.book
        wanted = list(self.order.slots())
        if not book.ranks:
            if self.running():
                self.soon()
            elif not wanted:
                self.vacate()
            elif self.free(wanted):
                self._form()
            else:
                self.soon()
            return
        stale = any(not entry.launched and self._epoch(name) < book.epoch for name, entry in book.ranks.items())
        if not book.leaving and (stale or set(self.slots(book.members)) != set(wanted)):
            if self._trains() and not book.left_gpus:
                book.left_gpus, book.left_s = len(self.slots(book.members)), now
            for name in [name for name, entry in book.ranks.items() if not entry.launched]:
                book.drop(name)
            book.leaving = list(book.ranks)
            self.changed()
        elif not book.leaving and self._told_epoch != book.epoch and all(map(self.alive, book.members)):
            self._told_epoch = book.epoch
            self.facts.append(Started(self.job_id, book.epoch))
            if self._trains():
                self._tell_rescaled(now)

    def _trains(self) -> bool:
        """Whether its log has told a step since the last launch; where it tells none, whether all are launched."""
        if self.order.spec.progress is None or (self._log is not None and self._log[1].given_up):
            return all(self.book.ranks[name].launched for name in self.book.members)
        return self._told_step[0] == self.book.generation

    def _tell_rescaled(self, now: float) -> None:
        """It trains; if that is after a change, say so."""
        book = self.book
        if book.left_gpus:
            pause_s = max(0.0, now - book.left_s)
            self.facts.append(Rescaled(self.job_id, pause_s, book.left_gpus, len(self.slots(book.members))))
            book.left_gpus = 0
            self.changed()

    def _form(self) -> None:
        """Name the ranks of a new launch."""
        book = self.book
        book.generation += 1
        self._formed = book.generation
        try:
            found = processes(self.order.spec, self.order.placement)
            told = notes(self.order.spec, len(list(self.order.slots())))
        except InputError as error:
            self.fail(GangFailure(None, f"cannot be started: {error}", final=True))
            return
        if self.order.spec.rescale == "none" and len(found) > 1:
            self.fail(GangFailure(None, "cannot be started: a job with rescale: none needs all its GPUs on one node"))
            return
        self.facts += [Noted(self.job_id, kind, text) for kind, text in told]
        book.members = [self.enlist(node, gpus) for node, gpus in found]
        book.port = _free_port()
        self._meeting = None
        self.changed()

    def _end_if_apart(self, gone: list[str], now: float) -> bool:
        """Whether its ranks do not belong together, each running the whole script, which ends it."""
        book, spec = self.book, self.order.spec
        ranks = len(self.slots(book.members))
        if spec.rescale == "none" or ranks < 2 or not all(book.ranks[name].launched for name in book.members):
            return False
        meeting = self._meeting
        if meeting is None:
            whole = self._formed == book.generation
            launched = len(book.members) < ranks
            meeting = self._meeting = Meeting(self.context.look_at_ranks, book.port, launched, now, whole)
        alone = next((name for name in gone if self.code(name) == 0), None)
        late = now - meeting.since_s > self.context.limits.meet_s
        steps = self._told_step[0] == book.generation
        running = [s for s in map(self.status, book.members) if s is not None and s.state is RankState.RUNNING]
        processes = [RankProcess(status.pid, status.started_s) for status in running]
        seen = meeting.watch(processes, now, at_once=late or steps)
        if seen is MeetingState.MET:
            return False
        if not meeting.launched:
            self.soon()
        if seen is MeetingState.UNKNOWN or not (late or steps or (alone and meeting.whole and not meeting.launched)):
            return False
        when = f"and {alone} has come to its end" if alone else f"and have not met after {now - meeting.since_s:.0f} s"
        reason = f"{ranks} ranks ran it, each the whole of it, {when}: {_NEVER_MET}"
        self.fail(GangFailure(0 if alone else None, reason, alone or book.members[0], final=True))
        return True

    def _epoch(self, name: str) -> int:
        return RankName.parse(name).epoch

    def _read_log(self, now: float, *, last: bool) -> bool:
        """Follow the log of the first rank, if the job says how; False while its ``last`` lines are being matched."""
        book, pattern = self.book, self.order.spec.progress
        if pattern is None or not book.members or not book.ranks[book.members[0]].launched:
            return True
        first = book.members[0]
        if self._log is None or self._log[0] != first:
            self._log = first, LogProgress(pattern, self.context.matcher)
            self._first = None
            self._still_s, self._still_since_step = now, self._formed == book.generation
        log = self._log[1]
        matched = log.collect()
        for _ in range(_PIECES):
            if not matched:
                break
            try:
                piece, offset = self.context.engine.log(RankName.parse(first), log.offset, _PIECE)
            except (KeyError, EngineError):
                return True
            if not piece:
                break
            matched = log.feed(piece, offset)
        else:
            self.soon()
        if not matched or (last and not log.finish()):
            self.soon()
            return not last
        if log.given_up:
            self.trouble = f"progress pattern {shown(pattern)} {log.given_up} on the log of {first}; steps are not read"
        self._tell_steps(log, now)
        return True

    def _tell_steps(self, log: LogProgress, now: float) -> None:
        """Tell how far the log says that the job is, where that is new."""
        book = self.book
        if log.steps is None or (book.generation, log.steps.step) == self._told_step:
            return
        step, total = log.steps
        if max(step, total or 0) > MOST_COUNT:  # not a count of steps
            return
        if self._first is None or step < self._first[0]:
            self._first = step, now
        self._tell_continued(step)
        self._told_step = (book.generation, step)
        if self._still_since_step and now - self._still_s > book.gap_s:
            book.gap_s = now - self._still_s
            self.changed()
        self._still_s, self._still_since_step = now, True
        if not book.leaving:
            self._tell_rescaled(now)
        self.facts.append(
            Progressed(
                job_id=self.job_id,
                step=step,
                steps_total=total,
                samples=0,
                generation=book.generation,
                gpus=len(self.slots(book.members)),
                nodes=len({book.ranks[name].node for name in book.members}),
                local_batch=0,
                accumulation=1,
                global_batch=0,
                timed_steps=step - self._first[0],
                timed_s=now - self._first[1],
            )
        )

    def _tell_continued(self, step: int) -> None:
        """Tell at the first step of a launch whether the script went on, or tells what it told at first."""
        book = self.book
        if self._told_step[0] == book.generation or self._formed != book.generation:
            return  # it is not the first, or nobody knows whether it is
        if book.first_step < 0:
            book.first_step = step
            self.changed()
        else:
            self.facts.append(Continued(self.job_id, step, step > book.first_step))

    def _end_if_hung(self, now: float) -> bool:
        """Whether its log has told no new step for too long, which ends it.

        How often it tells one must be known: some tell every epoch only. After the last step it may do what it likes.
        """
        book, limits, work = self.book, self.context.limits, self.order.spec.work
        if not book.gap_s or self._log is None or self._log[0] not in book.members or self._log[1].given_up:
            return False
        first, steps = self._log[0], self._log[1].steps
        if steps is not None and steps.step >= (steps.total or (work.iterations if work else math.inf)):
            return False
        still_s = now - self._still_s
        between_s = self.order.spec.limits.between_steps or limits.start_s
        if still_s <= max(between_s, limits.hang_steps * book.gap_s):
            return False
        self.fail(GangFailure(None, f"{first} did nothing for {still_s:.0f} s", first))
        return True


def _free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
