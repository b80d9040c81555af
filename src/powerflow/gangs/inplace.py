"""A gang whose ranks live on when it changes: one rank per GPU, led by targets in the job's mailbox.

Who is on a GPU of the new placement stays, and is named first. The others are dropped from the target, and leave when
the gang goes over. Newcomers are named once all their GPUs are free:

- all free: one target drops and names, so the gang goes over once;
- some still held by another gang: the first target only drops, a later one names. What a gang must give back it gives
  back without waiting for what it is to get, so gangs that swap GPUs cannot wait for each other;
- no GPU in common: all save and leave, and a new life begins from the checkpoint.

A rank that is lost is mended in the same way: a target without it, then one with a fresh rank in its place.
"""

from __future__ import annotations

from powerflow.elastic.mailbox import CHECKPOINT_FILE, Member, Phase, RankReport, Target
from powerflow.engine.protocol import EngineError
from powerflow.gangs.base import Gang, StopSignal, how_it_ended
from powerflow.gangs.context import GangContext
from powerflow.gangs.hang_detector import TRAINING, WAITING, HangDetector
from powerflow.gangs.losses import Losses
from powerflow.gangs.refusals import refusal
from powerflow.gangs.report_reader import ReportReader, progressed
from powerflow.gangs.state_file import GangFailure, GangRecord
from powerflow.gangs.types import DesiredState, GangCompleted, Hung, RankLost, Rescaled, Slot, Started, backoff_s

#: A rank leaves at the end of a step: the one in flight, or the next, or (for who is told late) the one after.
_STEPS_TO_LEAVE = 3
_NEVER_JOINED = "its script never joined: see docs/elastic.md, or submit it with rescale: restart or none"


class InPlace(Gang):
    """See the module."""

    told_by_mail = True

    def __init__(self, context: GangContext, order: DesiredState, book: GangRecord) -> None:
        super().__init__(context, order, book)
        self.news = ReportReader(context.mailbox(order.job_id))
        self._watch = HangDetector(context.limits)
        self._losses = Losses()
        self._posted = -1  # generation that is in the mailbox
        self._lost_since: float | None = None
        self._apart_since: float | None = None
        self._grow_s = 0.0  # no newcomers before then
        self._told_epoch = -1
        self._told_generation = book.generation if book.trained_gpus else -1
        self._told_step = (-1, -1)
        self._step_s = 0.0
        self._silent: set[str] = set()  # ranks that were ended because they never said a word

    def forgive(self) -> None:
        """Forget losses, and try again at once."""
        self._losses = Losses()
        self._grow_s = 0.0

    def safe_steps(self) -> int:
        """Steps that the checkpoint holds."""
        return self.book.steps_safe

    def leave_s(self) -> float:
        """Its grace, or as long as it takes to get to the end of a step, as far as it may be either."""
        return max(self.grace_s, min(_STEPS_TO_LEAVE * self._step_s, self.context.limits.grace_s))

    def carry_out(self, now: float) -> None:
        """Post the target, then launch whom it names."""
        book = self.book
        if book.generation and self._posted < book.generation:
            members = tuple(Member(name, book.ranks[name].node) for name in book.members)
            nodes = len({member.node for member in members})
            spec = self.order.spec
            most = (spec.batch.local_max if spec.batch else None) or 0
            outside_s = spec.limits.between_steps or self.context.limits.between_s
            target = Target(book.generation, members, most, max(nodes, 1), spec.checkpoint.every, outside_s)
            try:
                self.news.post(target, self.order.user)
            except EngineError as error:
                self.fail(GangFailure(None, f"cannot be started: {error}"))
                return
            self._posted = book.generation
        for name in book.members:
            if not self.launch(name, book.ranks[name].gpus, self._checkpoint()):
                break

    def _checkpoint(self) -> dict[str, str]:
        """Tells ranks of the file that they share, if their user says where it is to lie."""
        if self.order.spec.checkpoint.dir is None:
            return {}
        name = f"checkpoint-{self.job_id}-{self.book.mark}.pt"
        return {CHECKPOINT_FILE: str(self.context.checkpoint_dir(self.order) / name)}

    def decide(self, now: float) -> None:
        """See who ended and how, mend, and go for the order."""
        book = self.book
        reports = self.news.read(list(book.ranks))
        if self.news.nonsense:
            name, why = next(iter(self.news.nonsense.items()))
            self.fail(GangFailure(None, f"{name} is not believed: its report {why}", name, final=True))
            return
        self._learn(reports)
        gone = [name for name in book.ranks if self.gone(name)]
        if not self._see_the_end(gone, reports, now):
            return
        if not book.done:
            self._end_who_comes_too_late(reports)
            self._drop_leavers(gone)
            self._mend([name for name in gone if name in book.ranks and name not in book.leaving], reports, now)
            self._rejoin(reports, now)
        if book.failure is not None or book.done:
            self.soon()
            return
        self._kill_hung(reports, now)
        if self._lost_since is not None:
            return
        self._go_for_the_order(reports, now)
        self._hold_leavers(reports, now)

    # What ranks say.

    def _learn(self, reports: dict[str, RankReport]) -> None:
        """Tell what the members say of their training."""
        book = self.book
        safe = max((report.saved_step for report in reports.values()), default=0)
        if safe > book.steps_safe:
            book.steps_safe = safe
            self.changed()
        if not book.joined and any(report.generation for report in reports.values()):
            book.joined = True
            self.changed()
        members = [reports[name] for name in book.members if name in reports]
        if not members:
            return
        step = max(report.step for report in members)
        if step > max(self._losses.step, 0):
            self._losses.count = 0
        whole = len(members) == len(book.members) and all(
            report.generation == book.generation and report.phase in TRAINING and self.alive(report.name)
            for report in members
        )
        gpus = len(book.members)
        if whole and self._told_generation != book.generation:
            self._told_generation = book.generation
            if book.trained_gpus:
                pause_s = max(report.pause_s for report in members)
                self.facts.append(Rescaled(self.job_id, pause_s, book.trained_gpus, gpus))
            elif book.left_gpus:
                trained_s = max(report.timed_s for report in members)
                pause_s = max(0.0, self.context.clock() - book.left_s - trained_s)
                self.facts.append(Rescaled(self.job_id, pause_s, book.left_gpus, gpus))
            book.left_gpus = 0
            if book.trained_gpus != gpus:
                book.trained_gpus = gpus
                self.changed()
        elif not whole:
            self.soon()
        if whole and self._told_epoch != book.epoch and set(self.slots(book.members)) == set(self.order.slots()):
            self._told_epoch = book.epoch
            self.facts.append(Started(self.job_id, book.epoch))
        leader = max(members, key=lambda report: (report.generation, report.step, report.timed_steps))
        if leader.timed_steps:
            self._step_s = leader.timed_s / leader.timed_steps
        if step > 0 and (leader.generation, leader.step) != self._told_step:
            self._told_step = (leader.generation, leader.step)
            nodes = len({book.ranks[name].node for name in book.members})
            self.facts.append(progressed(self.job_id, leader, gpus if whole else book.trained_gpus or gpus, nodes))

    # How ranks end.

    def _see_the_end(self, gone: list[str], reports: dict[str, RankReport], now: float) -> bool:
        """Whether the job goes on; if it has trained all there is, see its ranks off."""
        book = self.book
        for name in gone:
            report = reports.get(name)
            if report is None:
                continue
            if report.phase is Phase.DONE and self.code(name) != 0:
                reason = f"{name} {how_it_ended(self.code(name))} after all was trained"
                self.fail(GangFailure(self.code(name), reason, name))
                return False
            # its script may have left its loop, and said no more: the others do the same, or wait for it in vain
            stopped = name not in book.leaving and report.generation > 0 and not self._badly(name, reports)
            if (report.phase is Phase.DONE or stopped) and not book.done:
                book.done = True
                book.steps = report.step
                self.changed()
        if not book.done:
            return True
        running = self.running()
        for name in running:
            report = reports.get(name)
            if report is None or report.generation == 0:  # a newcomer that will never be needed
                self.press(name, StopSignal.TERMINATED, self.context.limits.kill_s)
            elif report.phase in WAITING and report.phase is not Phase.DONE:  # waits for those who have gone
                self.press(name, StopSignal.TOLD, self.grace_s)
        self._kill_hung(reports, now)  # who left the loop early may save for long, but not for ever
        if not running:
            if book.ranks:
                self.clear()
            if not self.told():
                self.news.drop_checkpoint()
                end = (book.steps,) if book.joined else (None, _NEVER_JOINED)
                self.facts.append(GangCompleted(self.job_id, *end))
        return False

    def _drop_leavers(self, gone: list[str]) -> None:
        """Those who were told to leave, and did."""
        book = self.book
        if not book.members and any(self.alive(name) for name in book.leaving):
            return  # all leave: how they did is looked at together
        left = [name for name in gone if name in book.leaving]
        if left and not book.members and all(self.code(name) == 0 for name in left):
            # all saved and left in order, so the checkpoint holds the last step
            steps = [r.step for r in self.news.read(left).values() if r.phase is Phase.RELEASED]
            book.steps_safe = max([book.steps_safe, *steps])
        for name in left:
            book.drop(name)
            self.changed()
        if left and not book.ranks:
            book.trained_gpus = 0

    def _mend(self, lost: list[str], reports: dict[str, RankReport], now: float) -> None:
        """Close the ranks around those that ended though they should not."""
        book = self.book
        if not lost:
            self._lost_since = None
            return
        ran = [name for name, entry in book.ranks.items() if entry.launched]
        alone = next((name for name in lost if not self._badly(name, reports)), None)
        if alone is not None and not book.joined and len(ran) > 1:
            reason = f"{len(ran)} ranks ran it, each the whole of it, and {alone} has come to its end: {_NEVER_JOINED}"
            self.fail(GangFailure(0, reason, alone, final=True))
            return
        if refused := refusal(lost, reports, self.code, self.last_lines):
            self.fail(refused)
            return
        self.soon()
        if self._lost_since is None:
            self._lost_since = now
        living = [name for name in book.ranks if self.alive(name)]
        trained = [name for name in living if name in reports and reports[name].generation > 0]
        noticed = all(reports[name].phase in (Phase.BROKEN, Phase.DONE) for name in trained)
        unnoticed = all(name not in reports or reports[name].generation == 0 for name in lost)
        if (
            living
            and now < self._lost_since + self.context.limits.settle_s
            and not (trained and (noticed or unnoticed))
        ):
            return  # its peers may be about to end as well, and then there is nothing to mend
        self._lost_since = None
        first = next((name for name in lost if self._badly(name, reports)), None)
        if not living and first is None:  # all ended by themselves, and say that all is well
            book.done = True
            book.steps = max((report.step for report in reports.values()), default=0)
            self.changed()
            return
        first = first or lost[0]
        self._count_loss(reports)
        if not living or (book.trained_gpus and not trained) or self._losses.count > self.context.limits.losses:
            again = f" ({self._losses.count} times without a step in between)" if self._losses.count > 1 else ""
            self.fail(GangFailure(self.code(first), f"{first} {self._reason(first, reports)}{again}", first))
            return
        for name in lost:
            self.facts.append(RankLost(self.job_id, name, self.code(name), self._reason(name, reports)))
            book.drop(name)
        if self._losses.count > 1:
            self._grow_s = now + backoff_s(self._losses.count - 1)
        self._form_anew()  # nobody left among the members: those who were to leave save what they have

    def _rejoin(self, reports: dict[str, RankReport], now: float) -> None:
        """All members live, but the group could not be formed: have them try a new one."""
        book = self.book
        members = [reports.get(name) for name in book.members]
        apart = bool(members) and all(r is not None and r.phase in (Phase.BROKEN, Phase.READY) for r in members)
        if not apart or self._lost_since is not None or self.news.generation() < book.generation:
            self._apart_since = None
            return
        if self._apart_since is None:
            self._apart_since = now
        if now < self._apart_since + self.context.limits.rejoin_s:
            return
        self._apart_since = None
        self._count_loss(reports)
        if self._losses.count > self.context.limits.losses:
            notes = [report.note for report in members if report is not None and report.note]
            reason = f"its ranks cannot form a group: {(notes or ['they do not say why'])[0]}"
            self.fail(GangFailure(None, reason, book.members[0]))
            return
        self._form_anew()

    def _count_loss(self, reports: dict[str, RankReport]) -> None:
        step = max((report.step for report in reports.values()), default=0)
        if step > self._losses.step:
            self._losses = Losses(step=step)
        self._losses.count += 1

    def _form_anew(self) -> None:
        """Have the members that there are form a group of a new generation."""
        self.book.generation += 1
        self._losses.mended = self.book.generation
        self.changed()

    def _badly(self, name: str, reports: dict[str, RankReport]) -> bool:
        """Whether a rank that was not told to leave ended badly; who gets SIGTERM from elsewhere leaves in order."""
        released = name in reports and reports[name].phase is Phase.RELEASED
        return self.code(name) != 0 or released or self.rebooted(name)

    def _reason(self, name: str, reports: dict[str, RankReport]) -> str:
        note = reports[name].note if name in reports else ""
        if self.code(name) == 0 and self._badly(name, reports):
            note = "somebody else told it to leave"
        if name in self._silent:
            note = f"it said nothing for {self.context.limits.start_s:.0f} s; {_NEVER_JOINED}"
        return f"{how_it_ended(self.code(name))}{': ' + note if note else ''}"

    def _kill_hung(self, reports: dict[str, RankReport], now: float) -> None:
        taking_part = {
            name: reports.get(name)
            for name in self.book.ranks
            if self.alive(name) and (name in self.book.members or (name in reports and reports[name].generation > 0))
        }
        for name, what in self._watch.hung(taking_part, now, self.order.spec.limits.between_steps).items():
            if not self.pressed(name):
                self.facts.append(Hung(self.job_id, name, what))
                self._silent |= set() if self.book.joined or reports else {name}
            self.press(name, StopSignal.KILLED, self.context.limits.kill_s)

    def _all_trained(self, reports: dict[str, RankReport]) -> bool:
        """Whether those who train have come to the end, and only do what their script does after its loop."""
        phases = [report.phase for name, report in reports.items() if report.generation and self.alive(name)]
        return Phase.DONE in phases and all(phase in (Phase.DONE, Phase.RELEASED) for phase in phases)

    def _end_who_comes_too_late(self, reports: dict[str, RankReport]) -> None:
        """Newcomers to a gang that has trained all there is: they would wait for ever, or have seen it and gone."""
        if not self._all_trained(reports):
            return
        late = [name for name in self.book.ranks if name not in reports or not reports[name].generation]
        if any(name not in self.book.leaving for name in late):
            for name in [name for name in late if not self.book.ranks[name].launched]:
                self.book.drop(name)
            self.book.tell_to_leave([name for name in late if name in self.book.ranks])
            self.changed()
        for name in filter(self.alive, late):
            self.press(name, StopSignal.TERMINATED, self.context.limits.kill_s)

    # What the order asks for.

    def _go_for_the_order(self, reports: dict[str, RankReport], now: float) -> None:
        book = self.book
        wanted = list(self.order.slots())
        at = {slot: name for name in book.members for slot in self.slots([name])}
        fits = [name for name in book.members if self.slots([name])[0] in wanted]
        stay = [name for name in fits if self.book.ranks[name].launched or self._may_launch(name)]
        missing = [slot for slot in wanted if at.get(slot) not in stay]
        leave = [name for name in book.ranks if name not in stay and name not in book.leaving]
        if not wanted and not book.ranks:
            if not self.running():
                self.vacate()
            return
        if wanted and self._unheard(reports) and not stay:
            self.soon()
            return
        if self._unheard(reports) or self._all_trained(reports):
            missing = []
        if leave and (not stay or not missing or not self._ready_to_grow(missing, now)):
            self._regroup(stay, leave, [])
        elif missing and self._ready_to_grow(missing, now) and (stay or not self.running()):
            self._regroup(stay, leave, missing)
        elif missing or book.leaving:
            self.soon()

    def _unheard(self, reports: dict[str, RankReport]) -> bool:
        """Whether no rank has said a word: a script that knows nothing of us would run once more with each newcomer."""
        return not (self.book.joined or reports) and any(entry.launched for entry in self.book.ranks.values())

    def _may_launch(self, name: str) -> bool:
        """Whether a rank that was named but not launched is of this epoch: an older one is fenced."""
        return name.rsplit(".", 2)[1] == str(self.book.epoch)

    def _ready_to_grow(self, missing: list[Slot], now: float) -> bool:
        if now < self._grow_s:
            self.due_s = min(self.due_s, self._grow_s)
            return False
        if self.book.trained_gpus and self._told_generation < self._losses.mended:
            return False  # first the survivors go on
        return self.free(missing)

    def _regroup(self, stay: list[str], leave: list[str], missing: list[Slot]) -> None:
        book = self.book
        if missing and not stay:
            self.news.sweep()
        if leave and not stay and book.trained_gpus:
            book.left_gpus, book.left_s = book.trained_gpus, self.context.clock()
        for name in leave:
            if not book.ranks[name].launched:
                book.drop(name)
        book.tell_to_leave([name for name in leave if name in book.ranks])
        book.members = [*stay, *(self.enlist(node, (gpu,)) for node, gpu in missing)]
        book.generation += 1
        self.changed()

    def _hold_leavers(self, reports: dict[str, RankReport], now: float) -> None:
        """Their grace begins when the gang goes over; until then they train, and newcomers may still be building."""
        leaving = self.book.leaving
        if (
            leaving
            and self.book.members
            and not self._unheard(reports)
            and self.news.generation() < self.book.generation
        ):
            for name in leaving:
                self.hold(name, self.leave_s(), self.context.limits.start_s)
