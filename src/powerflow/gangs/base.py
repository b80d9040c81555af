"""Run one gang, whatever its ranks run: look, change its record, save it, act on it; again and again.

A turn:

1. Do what the record says and an earlier turn left undone.
2. Look at the ranks, and find a `Trigger`. Take the transition that `powerflow.gangs.machine.TABLE` gives for it, which
   changes the record. Repeat until nothing more is found.
3. Save the record, then do what it says: post a target, launch ranks, ask ranks to leave.

Every step may be repeated. A turn that is cut short anywhere is completed by the next, even by another controller's.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence

from powerflow.device.protocol import Place
from powerflow.engine.protocol import EngineError, Fenced, RankName, RankState
from powerflow.gangs.context import GangContext
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.machine import ACTIVE, ENDED, ENDING, TABLE, GangState, Trigger
from powerflow.gangs.state_file import GangFailure, GangRecord, RankEntry
from powerflow.gangs.stopping import StopAttempts, StopSignal
from powerflow.gangs.types import DesiredState, GangEvent, GangFailed, Started, Vacated, backoff_s
from powerflow.gangs.view import GangView

#: Most transitions in one turn; the rest is taken by the next, as other gangs wait.
_MOST_TRANSITIONS = 20


class Gang(ABC):
    """What all kinds of gangs have in common.

    Attributes:
        state: Where it stands; see `powerflow.gangs.machine`.
        since_s: When it came to this state.
        wanted: GPUs that it shall have.
        seen: What is known of its ranks in this turn.
        events: What the controller has not been told yet.
        due_s: When the next turn is wanted.
        trouble: What could not be done in the last turn.
        reading: Whether the last lines of its log are still being read. No end is dealt with before.
        stops: The ranks that were asked to leave.
    """

    #: Whether ranks read in their mailbox that they shall leave, before they get a signal.
    told_by_mail = False

    def __init__(self, context: GangContext, desired: DesiredState, record: GangRecord) -> None:
        self.context = context
        self.desired = desired
        self.record = record
        self.state = GangState.ADOPTED
        self.since_s = context.clock()
        self.wanted = list(desired.slots())
        self.seen = self.view()
        self.events: list[GangEvent] = []
        self.due_s = 0.0
        self.trouble = ""
        self.reading = False
        self.stops = StopAttempts(context)
        self._last_states: dict[str, RankState] = {}
        self._saved = True
        self._fenced_epoch = -1
        self._started_epoch = -1  # the last for which Started was told
        self._launch_s = 0.0  # no launch before then
        self._launch_failures = 0
        self._launch_trouble = ""

    @property
    def job_id(self) -> str:
        """Id of the job."""
        return self.desired.job_id

    # What the controller asks for.

    def take(self, desired: DesiredState) -> None:
        """Take a newer desired state; an older one, or the same again, changes nothing."""
        if desired.epoch <= self.record.epoch:
            return
        self.desired = desired
        self.wanted = list(desired.slots())
        self.record.mark = self.record.mark or secrets.token_hex(4)
        self.record.epoch = desired.epoch
        self.record.number = 0
        self.record.killed = False
        self.record.failure = None
        self._launch_s = 0.0
        self._launch_failures = 0
        self.forgive()
        self._asked_for(Trigger.DESIRED)

    def kill(self) -> None:
        """End it at once."""
        if not self.record.killed:
            self.record.killed = True
            self._asked_for(Trigger.KILL)

    def turn(self) -> None:
        """Take the next steps. What cannot be done now is kept in ``trouble``, and tried again by the next turn.

        Raises:
            EngineError: If the engine does not answer.
        """
        self.due_s = self.context.clock() + self.context.limits.steady_poll_s
        self._last_states = self._states()
        self.trouble = ""
        if self.state is GangState.ADOPTED:
            self.fire(self._adopted())
        self._act()
        self.seen = self.view()
        if self.state not in ENDED | ENDING:
            self.look()
        for _ in range(_MOST_TRANSITIONS):
            found = self._find()
            if found is None:
                break
            self.fire(found)
        if self.state not in ENDED | ENDING:
            self.watch()
        self._act()

    def fire(self, found: Trigger | GangFailure) -> None:
        """Take the transition for what was found; a failure is `Trigger.FAILURE`, with its reason.

        Raises:
            KeyError: There is none from this state: a defect.
        """
        if isinstance(found, GangFailure):
            self._note(found)
            found = Trigger.FAILURE
        before, (after, action) = self.state, TABLE[self.state, found]
        if action is not None:  # first: if it raises, the state stays, and the next turn tries again
            getattr(self, f"_{action.name.lower()}")()
        if self.state is before is not after:  # else the action has found that the job fails
            self.state, self.since_s = after, self.context.clock()
        self.soon()

    def collapse(self, why: str) -> None:
        """Fail the job, as a turn broke off by a defect. Where that cannot be carried out either, kill its ranks.

        What cannot be done now is done by the next turn.
        """
        self.trouble = why
        if self.record.failure is None:
            self.fire(GangFailure(None, why, final=True))
            return
        self.soon()
        running = self.view().running
        for name in running:
            with contextlib.suppress(EngineError, OSError):
                self.context.engine.signal(RankName.parse(name), signal.SIGKILL)
        if not running and self.state is not GangState.FAILED:
            self.state = GangState.FAILED
            self.record.ranks.clear()
            self.events.append(GangFailed(self.job_id, self.record.epoch, None, why, (), None, final=True))

    # What the kinds of gangs differ in: the methods below, and those named after the actions of the table.

    def view(self) -> GangView:
        """Return what is known of the ranks now."""
        statuses = self.context.statuses.setdefault(self.job_id, {})
        return GangView(self.record, statuses, self.wanted)

    @abstractmethod
    def look(self) -> None:
        """Look at what the ranks do, and tell how far they are."""

    @abstractmethod
    def find(self) -> Trigger | GangFailure | None:
        """Return what has changed for a gang that has ranks; None if nothing has."""

    def watch(self) -> None:  # noqa: B027 - a kind may have nothing to do
        """Ask ranks to stop that hang, or wait in vain. Called when all transitions of a turn are taken."""

    def post(self) -> None:  # noqa: B027 - a kind may have nothing to do
        """Tell the ranks what the gang shall be, if that was not done."""

    @abstractmethod
    def plans(self) -> Sequence[StartPlan]:
        """Return how the members are started; where they cannot be, fail the job and return none."""

    def forgive(self) -> None:  # noqa: B027 - a kind may have nothing to do
        """Forget losses so far: there is a new desired state."""

    def safe_steps(self) -> int | None:
        """Return the steps that survive the end of all ranks; None where only the script knows."""
        return None

    def has_room(self, slots: Sequence[Place]) -> bool:
        """Return whether ranks may be launched on these GPUs now: no process is on them."""
        return not any(slot in self.context.owners for slot in slots)

    # What they share.

    @property
    def grace_s(self) -> float:
        """Seconds that its ranks have to save and leave: as its owner asks, as far as the administrator grants it."""
        return min(self.desired.grace_s, self.context.limits.grace_s)

    def leave_s(self) -> float:
        """Seconds that a rank may take to leave after it was told."""
        return self.grace_s

    @property
    def quiet(self) -> bool:
        """True if nothing will happen here before the controller asks for something."""
        return self.state in ENDED and self._saved and not self.record.ranks and not self.view().running

    @property
    def due(self) -> bool:
        """True if there is something to see or to do."""
        return not self.quiet and (self.context.clock() >= self.due_s or self._states() != self._last_states)

    def changed(self) -> None:
        """Note that the record was changed, and must be saved before anything is done."""
        self._saved = False
        self.soon()

    def soon(self) -> None:
        """Look again soon: something is under way."""
        self.due_s = min(self.due_s, self.context.clock() + self.context.limits.transit_poll_s)

    def name_ranks(self, places: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
        """Name new ranks, given node and GPUs of each; they are launched once the record is saved."""
        names = []
        for node, gpus in places:
            names.append(str(RankName(self.job_id, self.record.epoch, self.record.number)))
            self.record.number += 1
            self.record.ranks[names[-1]] = RankEntry(node, gpus)
        return names

    def drop_unlaunched(self, names: Sequence[str]) -> list[str]:
        """Drop those of these ranks that were named, but not launched; return the others."""
        for name in names:
            if not self.record.ranks[name].launched:
                self.record.drop(name)
        return [name for name in names if name in self.record.ranks]

    def clear(self) -> None:
        """Deal with the ends of all ranks at once: no process of this job runs."""
        for name in reversed(list(self.record.ranks)):  # the first rank last: its log is the one to show
            self.record.drop(name)
        self.record.trained_gpus = 0
        self.changed()

    def tell_started(self) -> None:
        """Tell that all ranks train that the desired state asks for, once for each."""
        if self._started_epoch != self.record.epoch:
            self._started_epoch = self.record.epoch
            self.events.append(Started(self.job_id, self.record.epoch))

    # Finding.

    def _states(self) -> dict[str, RankState]:
        return {name: status.state for name, status in self.context.statuses.get(self.job_id, {}).items()}

    def _asked_for(self, trigger: Trigger) -> None:
        self._saved = False
        self.fire(trigger)
        self.due_s = 0.0

    def _adopted(self) -> Trigger:
        """Find where a gang stands by its record alone."""
        if self.record.failure is not None:
            return Trigger.FAILURE
        if self.record.killed:
            return Trigger.KILLED
        if self.record.done:
            return Trigger.TRAINED
        return Trigger.ALL_LEAVE if self.view().all_leave else Trigger.NAMED

    def _find(self) -> Trigger | GangFailure | None:
        if self.state in ENDED or (self.reading and self.state not in ENDING):
            return None
        if self.state is GangState.WAITING:
            return self._room()
        if self.state in ACTIVE and self.seen.all_leave:
            return Trigger.ALL_LEAVE
        found = None if self.state in ENDING else self.find()
        if found is not None or self.state in ACTIVE:
            return found
        if not self.seen.running:
            return Trigger.GONE
        self.soon()
        return None

    def _room(self) -> Trigger | None:
        if not self.seen.running:  # else a stray does, which is ended
            if not self.wanted:
                return Trigger.UNWANTED
            if self.has_room(self.wanted):
                return Trigger.ROOM
        self.soon()
        return None

    # Changing the record, and telling.

    def _note(self, failure: GangFailure) -> None:
        """Note why the job has failed. If a rank ended by no fault of the job's, that is the reason."""
        excuse = next(filter(None, map(self.view().excuse, self.record.ranks)), "")
        if excuse and not failure.final:
            failure = GangFailure(None, excuse, failure.rank, excused=True)
        failure.places = tuple((entry.node, entry.gpus) for entry in self.record.ranks.values())
        self.record.left_gpus = 0  # when it goes on, that is another beginning
        self.record.failure = failure
        self.changed()

    def _tell_vacated(self) -> None:
        steps = self.safe_steps()
        self.record.left_gpus = 0
        if self.record.ranks:
            self.clear()
        self.events.append(Vacated(self.job_id, self.record.epoch, steps))

    def _tell_failed(self) -> None:
        failure, steps = self.record.failure, self.safe_steps()
        assert failure is not None
        if self.record.ranks:
            self.clear()
        lines = self.context.last_lines(failure.rank) if failure.rank else ()
        how = failure.final, failure.excused, failure.places
        self.events.append(GangFailed(self.job_id, self.record.epoch, failure.code, failure.text, lines, steps, *how))

    # Doing what the record says.

    def _act(self) -> None:
        try:
            self._save()
            if self._fenced_epoch < self.record.epoch:
                self.context.engine.fence(self.job_id, self.record.epoch)
                self._fenced_epoch = self.record.epoch
            if self.state in ACTIVE or self.state is GangState.STOPPING:
                self.post()
            if self.state in ACTIVE:
                for plan in self.plans():
                    if not self._launch(plan):
                        break
        except OSError as error:  # a full disk stops what is new, not the end of what must end
            self.trouble = str(error)
            self.soon()
        self._ask_to_leave()

    def _save(self) -> None:
        if self._saved:
            return
        old, keep = self.record.ended, self.context.limits.ended_kept
        self.record.ended = old[-keep:]
        path = self.context.record_path(self.job_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.record.save(path)
        self._saved = True
        for name in old[:-keep]:
            self.context.engine.forget(RankName.parse(name))

    def _launch(self, plan: StartPlan) -> bool:
        """Start a rank, if that was not done; return False if it must wait or cannot be."""
        entry = self.record.ranks[plan.name]
        now = self.context.clock()
        if entry.launched:
            return True
        if now < self._launch_s:
            self.trouble = self._launch_trouble
            self.due_s = min(self.due_s, self._launch_s)
            return False
        try:
            self.context.launch(self.desired, plan, entry.node, entry.gpus)
        except Fenced:
            raise  # another controller has gone further: ours must not go on
        except (EngineError, OSError) as error:
            if isinstance(error, EngineError) and not error.retry and not self.record.trained_gpus:
                self.fire(GangFailure(None, f"cannot be started: {error}"))
                return False
            self._launch_failures += 1
            self._launch_s = now + backoff_s(self._launch_failures)
            self.trouble = self._launch_trouble = f"{plan.name} cannot be started now: {error}"
            return False
        entry.launched = True
        self._launch_failures = 0
        self.changed()
        return True

    def _ask_to_leave(self) -> None:
        """Ask ranks that shall leave, and send the signals that are due."""
        running = self.view().running
        end_s = self.context.limits.kill_s if self.state is GangState.FAILING else self.grace_s
        for name in running:
            if self.state in ENDING:
                self.stops.ask(name, StopSignal.TERMINATED, end_s)
            elif name in self.record.leaving and self.told_by_mail:
                self.stops.ask(name, StopSignal.TOLD, self.leave_s())
            elif name in self.record.leaving or name not in self.record.ranks:
                self.stops.ask(name, StopSignal.TERMINATED, self.grace_s)
        if self.stops.carry_out(set(running)):
            self.soon()
