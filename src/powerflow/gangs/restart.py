"""Run a gang of ranks that cannot change: it is stopped, and launched again on other GPUs.

``rescale: restart`` runs an unmodified script as torchrun does (`powerflow.gangs.layout`), or a launcher on each node.
``rescale: none`` runs any command once, with all GPUs of the job. Both kinds are stopped by SIGTERM, then get time to
save, then get SIGKILL. They continue from their own checkpoint, if they save one. If one rank fails, the other ranks
are ended too, because they cannot train without it. PowerFlow sees progress only in the log of the first rank, if the
job says how to read this log. If the log shows no new step for too long, the ranks are assumed to hang.

If a node does not answer, the other ranks wait for its ranks inside a collective. They may go on when it answers again.
If that takes too long, they are stopped and give their GPUs back. The job is not launched anywhere else before the node
answers: a rank on it may still write a checkpoint, and two launches must not write the same one.
"""

from __future__ import annotations

import math
import re

from powerflow.api.patterns import shown
from powerflow.engine.protocol import EngineError, RankName
from powerflow.errors import InputError
from powerflow.gangs.base import Gang
from powerflow.gangs.context import LOOPBACK, GangContext
from powerflow.gangs.layout import StartPlan, lay_out, notes, processes
from powerflow.gangs.log_progress import LogProgress
from powerflow.gangs.machine import GangState, Trigger
from powerflow.gangs.rendezvous import Meeting, MeetingState, RankProcess, free_port, port_of
from powerflow.gangs.report_bounds import MOST_COUNT
from powerflow.gangs.state_file import GangFailure, GangRecord
from powerflow.gangs.types import Continued, DesiredState, GangCompleted, Noted, Progressed

#: Most bytes of a log that are read in one go, and how often in one turn.
_PIECE, _PIECES = 1 << 16, 8
#: What a script writes if it cannot listen on a port.
_TAKEN = re.compile(r"EADDRINUSE|[Aa]ddress already in use")
_NEVER_MET = "call torch.distributed.init_process_group in the script, or submit the job with rescale: none"


class Scripts(Gang):
    """Run a gang that is stopped and launched again whenever its GPUs change."""

    def __init__(self, context: GangContext, desired: DesiredState, record: GangRecord) -> None:
        super().__init__(context, desired, record)
        self._told_step = (-1, -1)
        self._log: tuple[str, LogProgress] | None = None  # the rank of the log, and what was read in it
        self._first: tuple[int, float] | None = None  # first step seen of this launch, and when
        self._formed = -1  # number of the launch that this object started
        self._meeting: Meeting | None = None  # of the ranks of this launch
        self._still_s = 0.0  # since when the log has shown no new step
        self._far_s: float | None = None  # since when a rank's node does not answer
        self._still_since_step = False  # False if this object began to look later than the last step or launch

    def plans(self) -> list[StartPlan]:
        """Return how to start each process of the job, as `powerflow.gangs.layout` plans it."""
        entries = [(name, self.record.ranks[name].node, self.record.ranks[name].gpus) for name in self.record.members]
        try:
            address = self.context.address(entries[0][1]) if entries else LOOPBACK
            return lay_out(self.desired.spec, entries, self.record.port, self.context.interpreter, address)
        except InputError as error:
            self.fire(GangFailure(None, f"cannot start: {error}", final=True))
            return []

    # Finding.

    def find(self) -> Trigger | GangFailure | None:
        """Return the next reason to change the gang; None if there is no reason.

        The order of the checks: have ranks ended, does each rank run the whole script by itself, do ranks hang, are
        they on the wanted GPUs?
        """
        seen, members = self.seen, self.record.members
        if self.state in (GangState.STOPPING, GangState.FINISHING):
            return None
        gone = [name for name in members if seen.has_ended(name)]
        failed = next((name for name in gone if seen.code(name) != 0 or seen.rebooted(name)), None)
        if failed is not None:
            return self._failure(failed)
        if far := self._find_far():
            return far
        if apart := self._find_apart(gone):
            return apart
        if len(gone) == len(members):
            return Trigger.TRAINED
        if self._far_s is None and (hung := self._find_hung()):
            return hung
        if any(map(seen.is_stale, self.record.ranks)) or set(seen.slots(members)) != set(seen.wanted):
            return Trigger.MISPLACED
        if self.state is GangState.FORMING and all(map(seen.alive, members)):
            return Trigger.WHOLE
        return None

    def _failure(self, name: str) -> GangFailure:
        """Return why the job has failed, if this rank ended with an error.

        If the port on which the ranks meet was taken on its node, this is not the job's fault. The next launch has
        another port.
        """
        code, port = self.seen.code(name), self.record.port
        lines = self.context.last_lines(name) if self.desired.spec.rescale == "restart" else ()
        if any(_TAKEN.search(line) and re.search(rf"\b{port}\b", line) for line in lines):
            where = self.record.ranks[self.record.members[0]].node
            return GangFailure(code, f"port {port} of node {where} was taken", name, excused=True)
        return GangFailure(code, f"{name} {self.seen.how_it_ended(name)}", name)

    def _find_far(self) -> Trigger | None:
        """Return `Trigger.CUT` if ranks have waited for too long for a rank whose node does not answer."""
        seen, now = self.seen, self.context.clock()
        if not any(map(seen.is_far, self.record.members)):
            self._far_s = None
            return None
        self._far_s = now if self._far_s is None else self._far_s
        late = now - self._far_s >= self.context.limits.reach_s
        return Trigger.CUT if late and any(map(seen.alive, self.record.members)) else None

    def _find_apart(self, gone: list[str]) -> GangFailure | None:
        """Return a failure if the ranks have not connected to each other, so that each runs the whole script."""
        record, spec, now = self.record, self.desired.spec, self.context.clock()
        ranks = len(self.seen.slots(record.members))
        if spec.rescale == "none" or ranks < 2 or not all(record.ranks[name].launched for name in record.members):
            return None
        if not all(self.context.is_local(record.ranks[name].node) for name in record.members):
            return None  # only the processes of this machine can be looked into
        meeting = self._meeting
        if meeting is None:
            whole = self._formed == record.generation
            launched = len(record.members) < ranks
            meeting = self._meeting = Meeting(self.context.look_at_ranks, record.port, launched, now, whole)
        alone = next((name for name in gone if self.seen.code(name) == 0), None)
        late = now - meeting.since_s > self.context.limits.meet_s
        steps = self._told_step[0] == record.generation
        running = [self.seen.statuses[name] for name in record.members if self.seen.alive(name)]
        found = meeting.watch([RankProcess(s.pid, s.started_s) for s in running], now, at_once=late or steps)
        if found is MeetingState.MET:
            return None
        if not meeting.launched:
            self.soon()
        if found is MeetingState.UNKNOWN or not (late or steps or (alone and meeting.whole and not meeting.launched)):
            return None
        when = f"and {alone} has ended" if alone else f"and were not connected after {now - meeting.since_s:.0f} s"
        text = f"each of {ranks} ranks ran the whole script, {when}: {_NEVER_MET}"
        return GangFailure(0 if alone else None, text, alone or record.members[0], final=True)

    def _find_hung(self) -> GangFailure | None:
        """Return a failure if the script's log has shown no new step for too long.

        It must be known how often the log shows a step, because some logs show only every training epoch. After the
        last step the script may run as long as it likes.
        """
        record, limits, spec = self.record, self.context.limits, self.desired.spec
        if not record.gap_s or self._log is None or self._log[0] not in record.members or self._log[1].given_up:
            return None
        first, steps = self._log[0], self._log[1].steps
        if steps is not None and steps.step >= (steps.total or (spec.work.iterations if spec.work else math.inf)):
            return None
        still_s = self.context.clock() - self._still_s
        if still_s <= max(spec.limits.between_steps or limits.start_s, limits.hang_steps * record.gap_s):
            return None
        return GangFailure(None, f"the log of {first} showed no new step for {still_s:.0f} s", first)

    # Changing the record, and telling.

    def _name(self) -> None:
        """Give names to the ranks of a new launch."""
        record, spec = self.record, self.desired.spec
        record.generation += 1
        self._formed = record.generation
        try:
            found = processes(spec, self.desired.placement)
            told = notes(spec, len(self.wanted))
        except InputError as error:
            self.fire(GangFailure(None, f"cannot start: {error}", final=True))
            return
        if spec.rescale == "none" and len(found) > 1:
            text = "cannot start: a job with rescale: none needs all its GPUs on one node"
            self.fire(GangFailure(None, text))
            return
        self.events += [Noted(self.job_id, kind, text) for kind, text in told]
        record.members = self.name_ranks(found)
        first = record.ranks[record.members[0]].node
        record.port = free_port() if self.context.is_local(first) else port_of(self.job_id, record.generation)
        self._meeting = None
        self.changed()

    def _regroup(self) -> None:
        """Tell all ranks to leave, because a script cannot change its ranks."""
        record = self.record
        if self._trains and not record.left_gpus:
            record.left_gpus, record.left_s = len(self.seen.slots(record.members)), self.context.wall_clock()
        record.leaving = record.drop_unlaunched(list(record.ranks))
        self.changed()

    def _cut(self) -> None:
        """Stop the ranks that wait for a rank whose node does not answer, so that others can have their GPUs."""
        nodes = sorted({self.record.ranks[name].node for name in self.seen.far})
        text = f"its ranks are stopped, because node {', '.join(nodes)} has not answered for too long"
        self.events.append(Noted(self.job_id, "unreachable", text))
        self._far_s = None
        self._regroup()

    def _drop(self) -> None:
        self.clear()

    def _finish(self) -> None:
        self.record.done = True
        self.record.steps = self._told_step[1]
        self.clear()

    def _tell_completed(self) -> None:
        steps = self.record.steps
        self.events.append(GangCompleted(self.job_id, steps if steps >= 0 else None))

    def _tell_whole(self) -> None:
        self.tell_started()
        if self._trains:
            self._tell_rescaled()

    @property
    def _trains(self) -> bool:
        """True if the script's log has shown a step since the last launch.

        If no steps can be read from the log: True if all ranks are launched.
        """
        if self.desired.spec.progress is None or (self._log is not None and self._log[1].given_up):
            return all(self.record.ranks[name].launched for name in self.record.members)
        return self._told_step[0] == self.record.generation

    def _tell_rescaled(self) -> None:
        """Tell the controller that the script trains again, if it was stopped for a change."""
        record = self.record
        if record.left_gpus:
            self.tell_rescaled(0.0, len(self.seen.slots(record.members)))
            record.left_gpus = 0
            self.changed()

    # Reading the log.

    def look(self) -> None:
        """Read the new part of the first rank's log, if the job says how to find steps in it."""
        self.reading = False
        record, pattern, now = self.record, self.desired.spec.progress, self.context.clock()
        if pattern is None or not record.members or not record.ranks[record.members[0]].launched:
            return
        first = record.members[0]
        if self.seen.is_far(first):
            return
        if self._log is None or self._log[0] != first:
            self._log = first, LogProgress(pattern, self.context.matcher)
            self._first = None
            self._still_s, self._still_since_step = now, self._formed == record.generation
        log = self._log[1]
        last = all(map(self.seen.has_ended, record.members))
        matched = log.collect()
        for _ in range(_PIECES):
            if not matched:
                break
            try:
                piece, offset = self.context.engine.log(RankName.parse(first), log.offset, _PIECE)
            except (KeyError, EngineError):
                return
            if not piece:
                break
            matched = log.feed(piece, offset)
        else:
            self.soon()
        if not matched or (last and not log.finish()):
            self.soon()
            self.reading = last
            return
        if log.given_up:
            self.trouble = (
                f"progress pattern {shown(pattern)} {log.given_up} on the log of {first}; steps are not read any more"
            )
        self._tell_steps(log, now)

    def _tell_steps(self, log: LogProgress, now: float) -> None:
        """Tell the controller how many steps the log shows, if the number is new."""
        record = self.record
        if log.steps is None or (record.generation, log.steps.step) == self._told_step:
            return
        step, total = log.steps
        if max(step, total or 0) > MOST_COUNT:  # not a count of steps
            return
        if self._first is None or step < self._first[0]:
            self._first = step, now
        self._tell_continued(step if log.first is None else min(log.first, MOST_COUNT))
        self._told_step = (record.generation, step)
        if self._still_since_step and now - self._still_s > record.gap_s:
            record.gap_s = now - self._still_s
            self.changed()
        self._still_s, self._still_since_step = now, True
        if not record.leaving:
            self._tell_rescaled()
        self.events.append(
            Progressed(
                job_id=self.job_id,
                step=step,
                steps_total=total,
                generation=record.generation,
                gpus=len(self.seen.slots(record.members)),
                nodes=len({record.ranks[name].node for name in record.members}),
                timed_steps=step - self._first[0],
                timed_s=now - self._first[1],
            )
        )

    def _tell_continued(self, step: int) -> None:
        """Tell the controller, at the first step of a launch, whether the script went on or began again.

        The script went on if this step is higher than the first step of its first launch.
        """
        record = self.record
        if self._told_step[0] == record.generation or self._formed != record.generation:
            return  # it is not the first step of this launch, or may not be
        if record.first_step < 0:
            record.first_step = step
            self.changed()
        else:
            self.events.append(Continued(self.job_id, step, step > record.first_step))
