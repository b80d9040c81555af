"""Run one gang (the processes of one job) in turns: look at its ranks, save what shall happen, then act.

A turn:

1. Complete the actions that an earlier turn saved in the gang record (the gang's file on disk) but did not complete.
2. Look at the ranks, and find a `Trigger`: an observation or a request. Take its transition, which
   `powerflow.gangs.machine.TABLE` gives and which changes the record. Repeat until no trigger is found.
3. Save the record. Then carry out its actions: tell ranks whom to train with, launch ranks, ask ranks to leave.

Every action may be repeated safely. A turn may be cut short at any point: the next turn completes it, even if another
controller runs that turn.
"""

from __future__ import annotations

import contextlib
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence

from powerflow.device.protocol import Place
from powerflow.engine.protocol import EngineError, RankName, RankState
from powerflow.gangs.context import GangContext
from powerflow.gangs.launcher import CannotStart, Launcher
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.machine import ACTIVE, ENDED, ENDING, TABLE, GangState, Trigger
from powerflow.gangs.outage import Outage, note_ranks
from powerflow.gangs.starts import Starts
from powerflow.gangs.state_file import GangFailure, GangRecord
from powerflow.gangs.stopping import StopAttempts, StopSignal
from powerflow.gangs.types import DesiredState, GangEvent, GangFailed, Rescaled, Started, Vacated
from powerflow.gangs.view import GangView

#: Most transitions in one turn; the next turn takes the rest, because other gangs wait for their turns.
_MOST_TRANSITIONS = 20
#: Any time in Unix seconds is later; a monotonic time of an earlier version of PowerFlow is not.
_FIRST_S = 1e9


class Gang(ABC):
    """Run the gang (all processes) of one job. Subclasses add what differs between kinds of gangs.

    Attributes:
        state: State of the gang in the table of `powerflow.gangs.machine`.
        since_s: When the gang entered this state.
        wanted: GPUs that the gang shall have.
        seen: View of the gang's ranks in this turn.
        events: Events that the controller has not received yet.
        due_s: When the next turn of this gang is due.
        trouble: The action that failed in the last turn, with the reason; "" for none.
        unsent: Names of ranks for which no launch was sent yet.
        outage: The nodes of the gang that do not answer.
        reading: True while the last lines of the job's log are being read. Ends of ranks are handled only after that.
        stops: The ranks that were asked to leave.
    """

    #: True if ranks are told in their mailbox to leave before they get a signal.
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
        self._started_epoch = -1  # last epoch for which the event Started was sent
        self._launcher = Launcher(context)
        self.unsent: set[str] = set()
        self.outage = Outage(context, desired.job_id)
        self._starts = Starts(context.starts_path(desired.job_id), context.limits.ended_kept)

    @property
    def job_id(self) -> str:
        """Id of the gang's job."""
        return self.desired.job_id

    # What the controller asks for.

    def take(self, desired: DesiredState) -> None:
        """Accept a desired state if its epoch (placement number) is higher than the last; otherwise ignore it."""
        if desired.epoch <= self.record.epoch:
            return
        self.desired = desired
        self.wanted = list(desired.slots())
        self.record.begin(desired.epoch)
        self._launcher = Launcher(self.context)
        self.forgive()
        self._asked_for(Trigger.DESIRED)

    def kill(self) -> None:
        """End the job of this gang now."""
        if not self.record.killed:
            self.record.killed = True
            self._asked_for(Trigger.KILL)

    def turn(self) -> None:
        """Take the next actions of the gang.

        An action that fails for now is noted in ``trouble``; the next turn repeats it.

        Raises:
            EngineError: The engine does not answer.
        """
        self.due_s = self.context.clock() + self.context.limits.steady_poll_s
        self._last_states = self._states()
        self.trouble = ""
        if note_ranks(self.record, self.view()):
            self.changed()
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
        self.events += self.outage.tell(self.view())
        self.trouble = self.trouble or self.outage.trouble

    def fire(self, found: Trigger | GangFailure) -> None:
        """Take the transition that follows a trigger. A `GangFailure` stands for `Trigger.FAILURE` with its reason.

        Raises:
            KeyError: The table has no transition for this trigger in the present state. This is a defect of PowerFlow.
        """
        if isinstance(found, GangFailure):
            self._note(found)
            found = Trigger.FAILURE
        before, (after, action) = self.state, TABLE[self.state, found]
        if action is not None:  # before the state changes: if the action raises, the next turn repeats it
            getattr(self, f"_{action.name.lower()}")()
        if self.state is before is not after:  # otherwise the action itself has failed the job
            self.state, self.since_s = after, self.context.clock()
        self.soon()

    def collapse(self, why: str) -> None:
        """Fail the job, because PowerFlow failed while it worked on the gang. If that is impossible, kill the ranks.

        Actions that fail now are repeated later.

        Args:
            why: The reason, for the job's owner.
        """
        self.trouble = why
        if self.record.failure is None:
            self.fire(GangFailure(None, why, final=True))
            return
        self.soon()
        for name in self.view().running:
            with contextlib.suppress(EngineError, OSError):
                self.context.engine.signal(RankName.parse(name), signal.SIGKILL)
        if not self.view().remaining and self.state is not GangState.FAILED:
            self.state = GangState.FAILED
            self.record.ranks.clear()
            self.events.append(GangFailed(self.job_id, self.record.epoch, None, why, (), None, final=True))

    # What the kinds of gangs differ in: the methods below, and those named after the actions of the table.

    def view(self) -> GangView:
        """Return the present view of the gang's ranks."""
        statuses = self.context.statuses.setdefault(self.job_id, {})
        return GangView(self.record, statuses, self.wanted, down=self.context.down, unsteady=self.context.unsteady)

    @abstractmethod
    def look(self) -> None:
        """Read the state of the gang's ranks, and report their progress to the controller."""

    @abstractmethod
    def find(self) -> Trigger | GangFailure | None:
        """Return the next reason to change a gang that has ranks; None if there is no reason."""

    def watch(self) -> None:  # noqa: B027 - a kind may have nothing to do
        """Ask ranks to stop if they hang, or wait for ranks that will not come. Each turn ends with this."""

    def post(self) -> None:  # noqa: B027 - a kind may have nothing to do
        """Post the target (which ranks shall train together) in the job's mailbox, if it was not posted yet."""

    @abstractmethod
    def plans(self) -> Sequence[StartPlan]:
        """Return how to start each member's process. If this is impossible, fail the job and return nothing."""

    def forgive(self) -> None:  # noqa: B027 - a kind may have nothing to do
        """Count lost ranks from 0 again, because there is a new desired state."""

    def safe_steps(self) -> int | None:
        """Return the number of steps that a checkpoint holds; None if only the script knows this number."""
        return None

    def has_room(self, slots: Sequence[Place]) -> bool:
        """Return True if ranks may be launched on these GPUs now: their nodes answer, and no process is on them."""
        return not any(slot in self.context.owners or slot[0] in self.context.down for slot in slots)

    # What they share.

    @property
    def grace_s(self) -> float:
        """Seconds that ranks get to save and leave: set by the job's owner, up to the administrator's limit."""
        return min(self.desired.grace_s, self.context.limits.grace_s)

    def leave_s(self) -> float:
        """Return the seconds that a rank may take to leave after it was told to leave."""
        return self.grace_s

    @property
    def quiet(self) -> bool:
        """True if this gang does nothing until the controller asks for something."""
        held = self.record.ranks or self.record.cut
        return self.state in ENDED and self._saved and not held and not self.view().remaining

    @property
    def due(self) -> bool:
        """True if this gang needs a turn now: its time has come, or the state of a rank has changed."""
        return not self.quiet and (self.context.clock() >= self.due_s or self._states() != self._last_states)

    def changed(self) -> None:
        """Note that the gang record has changed. The record is saved before the gang acts again."""
        self._saved = False
        self.soon()

    def soon(self) -> None:
        """Make the next turn of this gang come soon, because a change is not complete yet."""
        self.due_s = min(self.due_s, self.context.clock() + self.context.limits.transit_poll_s)

    def name_ranks(self, places: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
        """Give names to new ranks, one for each (node, GPUs), and return the names.

        The ranks are launched after the gang record is saved.
        """
        names = [self.record.name(self.job_id, node, gpus) for node, gpus in places]
        self.unsent.update(names)
        return names

    def clear(self) -> None:
        """Remove all ranks from the gang record. Call this only when no process of this job runs."""
        for name in reversed(list(self.record.ranks)):  # the first rank last: its log is the one to show
            self.record.drop(name)
        self.record.trained_gpus = 0
        self.changed()

    def tell_started(self) -> None:
        """Tell the controller that all wanted ranks train. Do this only once for each epoch (placement of the job)."""
        if self._started_epoch != self.record.epoch:
            self._started_epoch = self.record.epoch
            self.events.append(Started(self.job_id, self.record.epoch))

    def tell_rescaled(self, trained_s: float, gpus: int) -> None:
        """Tell the controller that the job trains again on ``gpus`` GPUs, since ``trained_s`` seconds.

        No event is sent if an earlier version wrote the record, which did not note when the ranks had to leave.
        """
        record = self.record
        if record.left_s >= _FIRST_S:
            pause_s = max(0.0, self.context.wall_clock() - record.left_s - trained_s)
            self.events.append(Rescaled(self.job_id, pause_s, record.left_gpus, gpus))

    # Finding.

    def _states(self) -> dict[str, RankState]:
        return {name: status.state for name, status in self.context.statuses.get(self.job_id, {}).items()}

    def _asked_for(self, trigger: Trigger) -> None:
        self._saved = False
        self.fire(trigger)
        self.due_s = 0.0

    def _adopted(self) -> Trigger:
        """Return the trigger that leads from the state ADOPTED to the gang's real state, by the gang record alone."""
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
        if not self.seen.remaining:
            return Trigger.GONE
        self.soon()
        return None

    def _room(self) -> Trigger | None:
        if not self.seen.remaining:  # a rank that runs here is a stray, which is being ended
            if not self.wanted:
                return Trigger.UNWANTED
            if self.has_room(self.wanted):
                return Trigger.ROOM
        self.soon()
        return None

    # Changing the record, and telling.

    def _note(self, failure: GangFailure) -> None:
        """Write into the gang record why the job has failed.

        If a rank ended by no fault of the job's, this is taken as the reason.
        """
        excuse = next(filter(None, map(self.view().excuse, self.record.ranks)), "")
        if excuse and not failure.final:
            failure = GangFailure(None, excuse, failure.rank, excused=True)
        self.record.fail(failure)
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
                self._launch()
        except OSError as error:  # a full disk must not keep ranks from being ended
            self.trouble = str(error)
            self.soon()
        self._ask_to_leave()

    def _save(self) -> None:
        if self._saved:
            return
        states = self._states().items()
        self._starts.note(self.record, {name for name, state in states if state is not RankState.NOT_STARTED})
        old = self.record.ended
        self.record.ended = self._starts.keep(old)
        path = self.context.record_path(self.job_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.record.save(path)
        self._saved = True
        dropped = [name for name in old if name not in self.record.ended]
        for name in dropped:
            self.context.engine.forget(RankName.parse(name))
        self._starts.forget(dropped)

    def _launch(self) -> None:
        """Start the members that were not started yet, all of them in one batch."""
        record, before = self.record, self.record.launched()
        # the engine refuses ranks of an earlier placement for ever: the next transition drops them
        plans = [plan for plan in self.plans() if not self.seen.is_stale(plan.name)]
        self.unsent.difference_update(plan.name for plan in plans)
        try:
            done = self._launcher.launch(self.desired, plans, record.ranks, retry=record.trained_gpus > 0)
        except CannotStart as error:
            self.fire(GangFailure(None, f"cannot start: {error}", final=error.final))
            return
        if before != record.launched():
            self.changed()
        if not done:
            self.trouble = self._launcher.trouble
            self.due_s = min(self.due_s, self._launcher.again_s)

    def _ask_to_leave(self) -> None:
        """Ask the ranks that shall leave to do so, and send the signals that are due."""
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
