"""Run a gang whose ranks continue to run when its GPUs change. Each GPU has one rank.

A target is a message in the job's mailbox that names the ranks which shall train together. When the placement (the
job's GPUs) changes, ranks on GPUs of the new placement stay, and stand first in the new target. The other ranks leave
when the gang switches to the new target. New ranks are named once all GPUs for them are free. So there are three cases:

- All new GPUs are free: one target drops old ranks and names new ranks, so the gang switches once.
- Another gang still holds some of the GPUs: the first target only drops ranks, and a later target names new ranks. A
  gang gives its GPUs back without waiting for the GPUs that it will get. So gangs that swap GPUs cannot wait for each
  other.
- The old and the new placement have no GPU in common: all ranks save and leave, and new ranks start from the
  checkpoint.

A lost rank is replaced in the same way: by a target without this rank, then by a target with a new rank in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import CHECKPOINT_FILE, Phase
from powerflow.engine.protocol import EngineError
from powerflow.gangs.base import Gang
from powerflow.gangs.context import GangContext
from powerflow.gangs.hang_detector import WAITING, HangDetector
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.machine import GangState, Trigger
from powerflow.gangs.rank_reports import refusal
from powerflow.gangs.report_reader import ReportReader, progressed, target_of
from powerflow.gangs.state_file import GangFailure, GangRecord
from powerflow.gangs.stopping import StopSignal
from powerflow.gangs.types import DesiredState, GangCompleted, Hung, Noted, RankLost, Rescaled, backoff_s
from powerflow.gangs.view import InPlaceView, Losses, Regrouping

#: A rank leaves at the end of a step. If it reads the target late, two more steps may pass before it leaves.
_STEPS_TO_LEAVE = 3
_NEVER_JOINED = (
    "its script does not use powerflow.elastic; use it (`powerflow elastic check` names the lines to change), or give"
    " rescale: restart or none"
)


class InPlace(Gang):
    """Run a gang whose ranks continue to run when its GPUs change."""

    told_by_mail = True
    seen: InPlaceView

    def __init__(self, context: GangContext, desired: DesiredState, record: GangRecord) -> None:
        super().__init__(context, desired, record)
        self.reader = ReportReader(context.mailbox(desired.job_id), partial(context.engine.post, desired.job_id))
        self._hangs = HangDetector(context.limits, lambda name: context.is_local(record.ranks[name].node))
        self._losses = Losses()
        self._posted = -1  # generation that is in the mailbox
        self._apart_s: float | None = None  # since when the members wait for a group
        self._grow_s = 0.0  # no new ranks before this time
        self._trained_generation = (
            record.generation if record.trained_gpus else -1
        )  # the last one in which all members trained
        self._told_step = (-1, -1)
        self._step_s = 0.0
        self._hung: set[str] = set()  # ranks that were ended because they hung
        self._silent: set[str] = set()  # those of them that never reported

    def forgive(self) -> None:
        """Count lost ranks from 0 again, and let the gang try again at once."""
        self._losses = Losses()
        self._grow_s = 0.0

    def safe_steps(self) -> int:
        """Return the number of steps in the job's checkpoint."""
        return self.record.steps_safe

    def leave_s(self) -> float:
        """Return the seconds that a rank gets to leave.

        That is the time that the owner set for saving, or the time of three steps if that is longer.
        The result is never above the administrator's limit.
        """
        return max(self.grace_s, min(_STEPS_TO_LEAVE * self._step_s, self.context.limits.grace_s))

    def has_room(self, slots: Sequence[Place]) -> bool:
        """Return True if new ranks may be launched on these GPUs now.

        They may not while a process is on one of these GPUs, or while the gang recovers from the loss of a rank.
        """
        now = self.context.clock()
        if now < self._grow_s:
            self.due_s = min(self.due_s, self._grow_s)
            return False
        if self.record.trained_gpus and self._trained_generation < self._losses.mended:
            return False  # the ranks that are left train first
        return super().has_room(slots)

    def post(self) -> None:
        """Post in the job's mailbox which ranks shall train together in the newest generation."""
        record, spec = self.record, self.desired.spec
        if not record.generation or self._posted >= record.generation:
            return
        outside_s = spec.limits.between_steps or self.context.limits.between_s
        try:
            self.reader.post(target_of(record, spec, outside_s), self.context.mailbox_user(self.desired))
        except EngineError as error:
            self.fire(GangFailure(None, f"cannot start: {error}", final=error.final))
            return
        self._posted = record.generation

    def plans(self) -> list[StartPlan]:
        """Return how to start the process of each member of the gang: one process per GPU.

        Each process learns the path of the file that all ranks share, if the job's user says where to put this file.
        """
        extra = {}
        if self.record.members and self.context.keeps_apart(self.desired):
            name = f"checkpoint-{self.job_id}-{self.record.mark}.pt"
            extra[CHECKPOINT_FILE] = str(self.context.checkpoint_dir(self.desired) / name)
        return [StartPlan(name, self.record.ranks[name].gpus, extra) for name in self.record.members]

    # Looking.

    def look(self) -> None:
        """Read the reports of the gang's ranks, and report the progress of training to the controller."""
        base, record = self.seen, self.record
        reports = self.reader.read(list(record.ranks))
        seen = self.seen = InPlaceView.of(base, reports, self.reader.nonsense)
        if seen.nonsense:
            return
        safe = max((report.saved_step for report in reports.values()), default=0)
        if safe > record.steps_safe:
            record.steps_safe = safe
            self.changed()
        if not record.joined and any(report.generation for report in reports.values()):
            record.joined = True
            self.changed()
        if seen.members:
            self._look_at_members()
        apart = seen.apart and self.state is not GangState.SETTLING and self.reader.generation() >= record.generation
        self._apart_s = (self.context.clock() if self._apart_s is None else self._apart_s) if apart else None

    def _look_at_members(self) -> None:
        seen, record = self.seen, self.record
        step = max(report.step for report in seen.members)
        if step > max(self._losses.step, 0):
            self._losses = replace(self._losses, count=0)
        whole = seen.whole
        if whole and self.state is GangState.FORMING:
            self.fire(Trigger.WHOLE)
        elif not whole:
            if self.state is GangState.TRAINING:
                self.fire(Trigger.BROKEN)
            self.soon()
        leader = max(seen.members, key=lambda report: (report.generation, report.step, report.timed_steps))
        if leader.timed_steps:
            self._step_s = leader.timed_s / leader.timed_steps
        if step > 0 and (leader.generation, leader.step) != self._told_step:
            self._told_step = (leader.generation, leader.step)
            gpus = len(record.members)
            nodes = len({record.ranks[name].node for name in record.members})
            self.events.append(progressed(self.job_id, leader, gpus if whole else record.trained_gpus or gpus, nodes))

    # Finding.

    def find(self) -> Trigger | GangFailure | None:
        """Return the next reason to change the gang; None if there is no reason.

        The order of the checks: have ranks ended, do all members train together, are they on the wanted GPUs?
        """
        seen = self.seen
        if seen.nonsense:
            name, why = next(iter(seen.nonsense.items()))
            return GangFailure(None, f"the report of {name} is rejected: it {why}", name, final=True)
        if name := seen.failed_after_the_end:
            text = f"{name} {seen.how_it_ended(name)} after all training was done"
            return GangFailure(seen.code(name), text, name)
        if self.state is GangState.FINISHING:
            return None
        if seen.trained_all is not None:
            return Trigger.TRAINED
        if self.state is GangState.STOPPING:
            return Trigger.CUT if seen.cut_off else None
        if any(name not in self.record.leaving for name in seen.late):
            return Trigger.LATE
        if any(name in self.record.leaving for name in seen.ended):
            return Trigger.LEFT
        if seen.lost or self.state is GangState.SETTLING:
            return self._find_loss()
        if seen.cut_off:
            return Trigger.CUT
        return self._find_stuck() or (Trigger.MISPLACED if self._regrouping() else None)

    def _find_loss(self) -> Trigger | GangFailure | None:
        """Return how the gang goes on after ranks have ended unexpectedly."""
        seen, record, limits = self.seen, self.record, self.context.limits
        lost = seen.lost
        if not lost:
            return Trigger.RECOVERED
        ran = [name for name, entry in record.ranks.items() if entry.launched]
        alone = next((name for name in lost if not seen.ended_badly(name)), None)
        if alone is not None and not record.joined and len(ran) > 1:
            text = f"each of {len(ran)} ranks ran the whole script, and {alone} has ended: {_NEVER_JOINED}"
            return GangFailure(0, text, alone, final=True)
        if refused := refusal(lost, seen.reports, seen.code, self.context.last_lines):
            return refused
        self.soon()
        if self.state is not GangState.SETTLING:
            return Trigger.LOST
        if self.context.clock() < self.since_s + limits.settle_s and not seen.peers_know:
            return None  # other ranks may be about to end too: wait for them
        stranded = record.trained_gpus and not any(map(seen.joined, seen.living))
        if seen.far and (stranded or not seen.living):
            return None  # only ranks that do not answer have the state of the job: wait for them
        first = next(filter(seen.ended_badly, lost), None)
        if not seen.living and first is None:  # all ranks ended by themselves, with code 0
            return Trigger.TRAINED
        first = first or lost[0]
        losses = self._losses.another(seen.step)
        if not seen.living or stranded or losses.count > limits.losses:
            again = f" ({losses.count} times without a step in between)" if losses.count > 1 else ""
            return GangFailure(seen.code(first), f"{first} {self._reason(first)}{again}", first)
        return Trigger.SETTLED

    def _find_stuck(self) -> Trigger | GangFailure | None:
        """Return how the gang goes on if its members, though all live, could not form a group for a long time."""
        limits = self.context.limits
        if self._apart_s is None or self.context.clock() < self._apart_s + limits.rejoin_s:
            return None
        if self._losses.another(self.seen.step).count <= limits.losses:
            return Trigger.STUCK
        notes = [report.note for report in self.seen.members if report.note]
        text = f"its ranks cannot form a group: {(notes or ['they report no reason'])[0]}"
        return GangFailure(None, text, self.record.members[0])

    def _regrouping(self) -> Regrouping | None:
        """Return how the members change to reach the wanted GPUs; None if they cannot change now, or need not."""
        seen, record, found = self.seen, self.record, self.seen.regrouping
        if seen.wanted and seen.silent and not found.stay:
            self.soon()
            return None
        if found.missing and found.stay and self.has_room(found.missing):
            return found
        if found.leave:
            return found._replace(missing=[])
        if found.missing or any(not seen.is_far(name) for name in record.leaving):
            self.soon()
        return None

    def _reason(self, name: str) -> str:
        seen = self.seen
        note = seen.reports[name].note if name in seen.reports else ""
        note = "another program told it to leave" if seen.code(name) == 0 and seen.ended_badly(name) else note
        if name in self._silent:
            note = f"it reported nothing for {self.context.limits.start_s:.0f} s; {_NEVER_JOINED}"
        ended = seen.how_it_ended(name, asked=name in self._hung)
        return f"{ended}{': ' + note if note else ''}"

    # Changing the record, and telling.

    def _reform(self) -> None:
        """Let the members form a group of a new generation, after the last one lost a rank or could not be formed."""
        self._losses = replace(self._losses.another(self.seen.step), mended=self.record.generation + 1)
        self._next_generation(self.record.members)

    def _next_generation(self, members: list[str]) -> None:
        self.record.members = members
        self.record.generation += 1
        self._apart_s = None
        self.changed()

    def _name(self) -> None:
        self.reader.sweep()
        self._next_generation(self.name_ranks([(node, (gpu,)) for node, gpu in self.wanted]))

    def _regroup(self) -> None:
        record, found = self.record, self._regrouping()
        assert found is not None
        if found.leave and not found.stay and record.trained_gpus:
            record.left_gpus, record.left_s = record.trained_gpus, self.context.wall_clock()
        record.tell_to_leave(record.drop_unlaunched(found.leave))
        newcomers = self.name_ranks([(node, (gpu,)) for node, gpu in found.missing])
        self._next_generation([*found.stay, *newcomers])

    def _mend(self) -> None:
        """Let the members form a group without the lost ranks.

        If no member is left, the ranks that were told to leave save and go.
        """
        seen, record = self.seen, self.record
        for name in seen.lost:
            self.events.append(RankLost(self.job_id, name, seen.code(name), self._reason(name)))
            record.drop(name)
        self._set_apart()
        self._reform()
        if self._losses.count > 1:
            self._grow_s = self.context.clock() + backoff_s(self._losses.count - 1)

    def _cut(self) -> None:
        """Let the members form a group without the ranks whose node does not answer. This is no loss of the job's."""
        self._set_apart()
        self._losses = replace(self._losses, mended=self.record.generation + 1)
        self._next_generation(self.record.members)

    def _set_apart(self) -> None:
        """Go on without the ranks whose node does not answer. Their GPUs stay taken until they have ended."""
        record = self.record
        for name in record.drop_unlaunched(self.seen.cut_off):
            text = f"node {record.ranks[name].node} does not answer: the others go on without {name}, which may run on"
            self.events.append(Noted(self.job_id, "unreachable", text))
            record.set_apart(name)

    def _dismiss(self) -> None:
        self.record.tell_to_leave(self.record.drop_unlaunched(self.seen.late))
        self.changed()

    def _drop(self) -> None:
        seen, record = self.seen, self.record
        left = [name for name in seen.ended if name in record.leaving]
        if left and not record.members and all(seen.code(name) == 0 for name in left):
            # all saved and left in order, so the checkpoint holds the last step
            steps = [r.step for r in self.reader.read(left).values() if r.phase is Phase.RELEASED]
            record.steps_safe = max([record.steps_safe, *steps])
        for name in left:
            record.drop(name)
            self.changed()
        if left and not record.ranks:
            record.trained_gpus = 0

    def _finish(self) -> None:
        report = self.seen.trained_all
        self.record.done = True
        self.record.steps = self.seen.step if report is None else report.step
        self.changed()

    def _tell_whole(self) -> None:
        record, members = self.record, self.seen.members
        gpus = len(members)
        if self._trained_generation != record.generation:
            self._trained_generation = record.generation
            if record.trained_gpus:
                pause_s = max(report.pause_s for report in members)
                self.events.append(Rescaled(self.job_id, pause_s, record.trained_gpus, gpus))
            elif record.left_gpus:
                trained_s = max(report.timed_s for report in members)
                self.tell_rescaled(trained_s, gpus)
            record.left_gpus = 0
            if record.trained_gpus != gpus:
                record.trained_gpus = gpus
                self.changed()
        if set(self.seen.slots(record.members)) == set(self.wanted):
            self.tell_started()

    def _tell_completed(self) -> None:
        if self.record.ranks:
            self.clear()
        self.reader.drop_checkpoint()
        end = (self.record.steps,) if self.record.joined else (None, _NEVER_JOINED)
        self.events.append(GangCompleted(self.job_id, *end))

    # Asking ranks to stop.

    def watch(self) -> None:
        """Ask ranks to stop if they hang, come too late to train, or wait for ranks that have ended."""
        seen, kill_s = self.seen, self.context.limits.kill_s
        if self.state is GangState.FINISHING:
            for name in seen.running:
                if not seen.joined(name):  # a new rank that is not needed any more
                    self.stops.ask(name, StopSignal.TERMINATED, kill_s)
                elif seen.reports[name].phase in WAITING and seen.reports[name].phase is not Phase.DONE:
                    self.stops.ask(name, StopSignal.TOLD, self.grace_s)
        for name in filter(seen.alive, seen.late):
            self.stops.ask(name, StopSignal.TERMINATED, kill_s)
        self._stop_hung()
        if self.state is not GangState.SETTLING:
            self._postpone_leaving()

    def _stop_hung(self) -> None:
        """Stop ranks that hang, even after all steps are trained: a script may save for long then, but not for ever."""
        seen, record = self.seen, self.record
        if seen.far:  # a rank that waits for one on a node that does not answer does not hang
            self._hangs.reset()
            return
        between_s = self.desired.spec.limits.between_steps
        members = {n: seen.reports.get(n) for n in seen.living if n in record.members or seen.joined(n)}
        for name, what in self._hangs.hung(members, self.context.clock(), between_s).items():
            if not self.stops.asked(name):
                self.events.append(Hung(self.job_id, name, what))
                self._hung.add(name)
                self._silent |= set() if record.joined or seen.reports else {name}
            self.stops.ask(name, StopSignal.KILLED, self.context.limits.kill_s)

    def _postpone_leaving(self) -> None:
        """Start the time that leaving ranks have when the gang switches to the new generation.

        Until then the leaving ranks train, and new ranks may load their script.
        """
        record = self.record
        if not record.leaving or not record.members or self.seen.silent:
            return
        if self.reader.generation() < record.generation:
            for name in record.leaving:
                self.stops.postpone(name, self.leave_s(), self.context.limits.start_s)
