"""One gang, whatever its ranks run: decide, write it down, do it; again and again.

A turn first does what the book already says (post a target, launch ranks, ask some to leave), then looks, decides
by changing the book, saves it, and does that. Every step may be repeated, and a turn that is cut short anywhere is
completed by the next, even by another controller's.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum

from powerflow.engine.protocol import EngineError, Fenced, RankName, RankState, RankStatus
from powerflow.gangs.context import GangContext
from powerflow.gangs.state_file import GangFailure, GangRecord, RankEntry
from powerflow.gangs.types import DesiredState, GangEvent, GangFailed, Slot, Vacated, backoff_s


class StopSignal(IntEnum):
    """How hard a rank has been asked to leave."""

    TOLD = 0
    TERMINATED = 1
    KILLED = 2


@dataclass(slots=True)
class StopAttempt:
    """What was done to make a rank leave, and when the next thing is due."""

    push: StopSignal
    since_s: float
    due_s: float


class Gang(ABC):
    """What all kinds of gangs have in common."""

    #: Whether ranks learn from their mailbox that they shall leave, before they get a signal.
    told_by_mail = False

    def __init__(self, context: GangContext, order: DesiredState, book: GangRecord) -> None:
        self.context = context
        self.order = order
        self.book = book
        self.facts: list[GangEvent] = []
        self.due_s = 0.0  # when the next turn is wanted
        self.trouble = ""  # what could not be done in the last turn
        self._seen: dict[str, RankState] = {}  # ranks in the last turn
        self._pressures: dict[str, StopAttempt] = {}
        self._saved = True
        self._fenced = -1
        self._ended = False  # the end of this order was told
        self._launch_s = 0.0  # not before then
        self._launch_failures = 0
        self._launch_trouble = ""

    @property
    def job_id(self) -> str:
        """Whose gang it is."""
        return self.order.job_id

    def take(self, order: DesiredState) -> None:
        """A newer order; an older one, or the same again, changes nothing."""
        if order.epoch <= self.book.epoch:
            return
        self.order = order
        self.book.mark = self.book.mark or secrets.token_hex(4)
        self.book.epoch = order.epoch
        self.book.number = 0
        self.book.killed = False
        self.book.failure = None
        self._saved = self._ended = False
        self.due_s = 0.0
        self._launch_s = 0.0
        self._launch_failures = 0
        self.forgive()

    def kill(self) -> None:
        """End it at once."""
        if not self.book.killed:
            self.book.killed = True
            self._saved = self._ended = False
            self.due_s = 0.0

    def turn(self) -> None:
        """Take the next step. What cannot be done now is kept in ``trouble``, and tried again by the next turn.

        Raises:
            EngineError: If the engine does not answer.
        """
        now = self.context.clock()
        self.due_s = now + self.context.limits.steady_poll_s
        self._seen = self._states()
        self.trouble = ""
        self._act(now)
        if self.book.killed or self.book.failure is not None:
            self._end(now)
        else:
            self.decide(now)
        self._act(now)

    # What the kinds of gangs differ in.

    @abstractmethod
    def decide(self, now: float) -> None:
        """Look, tell facts, and change the book (`changed`) to what shall be."""

    @abstractmethod
    def carry_out(self, now: float) -> None:
        """Do what the book says and was not done yet."""

    @abstractmethod
    def forgive(self) -> None:
        """A new order: losses so far are forgotten."""

    @abstractmethod
    def safe_steps(self) -> int | None:
        """Steps that survive the end of all ranks."""

    @property
    def grace_s(self) -> float:
        """Seconds that its ranks have to save and leave: as its owner asks, as far as the administrator grants it."""
        return min(self.order.grace_s, self.context.limits.grace_s)

    def leave_s(self) -> float:
        """Seconds that a rank may take to leave after it was told."""
        return self.grace_s

    @property
    def quiet(self) -> bool:
        """Whether nothing will happen here before a new order."""
        return self._ended and self._saved and not self.book.ranks and not self.running()

    @property
    def due(self) -> bool:
        """Whether there is something to see or to do."""
        return not self.quiet and (self.context.clock() >= self.due_s or self._states() != self._seen)

    def _states(self) -> dict[str, RankState]:
        return {name: status.state for name, status in self.context.statuses.get(self.job_id, {}).items()}

    # What they share.

    def changed(self) -> None:
        """The book was changed, and must be saved before anything is done."""
        self._saved = False
        self.soon()

    def soon(self) -> None:
        """Something is under way: look again soon."""
        self.due_s = min(self.due_s, self.context.clock() + self.context.limits.transit_poll_s)

    def status(self, name: str) -> RankStatus | None:
        """How a rank is; None if the engine does not know it."""
        return self.context.statuses.get(self.job_id, {}).get(name)

    def alive(self, name: str) -> bool:
        """Whether a rank runs."""
        status = self.status(name)
        return status is not None and status.state is RankState.RUNNING

    def gone(self, name: str) -> bool:
        """Whether a rank ran, and does not any more."""
        return self.book.ranks[name].launched and not self.alive(name)

    def code(self, name: str) -> int | None:
        """Exit code of a rank that is gone; None if it was lost."""
        status = self.status(name)
        return None if status is None else status.code

    def rebooted(self, name: str) -> bool:
        """Whether a rank was ended because its machine went down."""
        status = self.status(name)
        return status is not None and status.rebooted

    def _excuse(self, name: str) -> str:
        """Why the end of a rank is no fault of the job's; "" where it is, or where it lives."""
        if self.book.ranks[name].launched and self.status(name) is None:
            return "its engine does not know it any more"
        return "its machine was booted" if self.rebooted(name) else ""

    def running(self) -> list[str]:
        """All that is alive of this job, strays included."""
        return [name for name in self.context.statuses.get(self.job_id, {}) if self.alive(name)]

    def slots(self, names: list[str]) -> list[Slot]:
        """GPUs of these ranks."""
        return [(entry.node, gpu) for entry in map(self.book.ranks.__getitem__, names) for gpu in entry.gpus]

    def free(self, slots: list[Slot]) -> bool:
        """Whether nobody is on any of these GPUs."""
        return not any(slot in self.context.owners for slot in slots)

    def enlist(self, node: str, gpus: tuple[int, ...]) -> str:
        """Name a new rank; it is launched once the book is saved."""
        name = str(RankName(self.job_id, self.book.epoch, self.book.number))
        self.book.number += 1
        self.book.ranks[name] = RankEntry(node, gpus)
        return name

    def launch(self, name: str, seen: tuple[int, ...], extra: dict[str, str], argv: tuple[str, ...] = ()) -> bool:
        """Start a rank that the book names, if that was not done; False if it must wait or cannot be.

        ``argv`` is what to run in place of the job's own line.
        """
        entry = self.book.ranks[name]
        now = self.context.clock()
        if entry.launched:
            return True
        if now < self._launch_s:
            self.trouble = self._launch_trouble
            self.due_s = min(self.due_s, self._launch_s)
            return False
        try:
            self.context.launch(self.order, RankName.parse(name), entry.node, entry.gpus, seen, extra, argv)
        except Fenced:
            raise  # another controller has gone further: ours must not go on
        except (EngineError, OSError) as error:
            if isinstance(error, EngineError) and not error.retry and not self.book.trained_gpus:
                self.fail(GangFailure(None, f"cannot be started: {error}"))
                return False
            self._launch_failures += 1
            self._launch_s = now + backoff_s(self._launch_failures)
            self.trouble = self._launch_trouble = f"{name} cannot be started now: {error}"
            return False
        entry.launched = True
        self._launch_failures = 0
        self.changed()
        return True

    def fail(self, failure: GangFailure) -> None:
        """The job has failed; what still runs is ended. Where that is no fault of its own, the reason is another."""
        excuse = next(filter(None, map(self._excuse, self.book.ranks)), "")
        if excuse and not failure.final:
            failure = GangFailure(None, excuse, failure.rank, excused=True)
        self.book.left_gpus = 0  # when it goes on, that is another beginning
        failure.places = tuple((entry.node, entry.gpus) for entry in self.book.ranks.values())
        self.book.failure = failure
        self.changed()

    def collapse(self, why: str) -> None:
        """A turn broke off by a defect: the job has failed. Where that cannot be carried out in order, kill its ranks.

        What cannot be done now is done by the next turn.
        """
        self.trouble = why
        if self.book.failure is None:
            self.fail(GangFailure(None, why, final=True))
            return
        self.soon()
        running = self.running()
        for name in running:
            with contextlib.suppress(EngineError, OSError):
                self.context.engine.signal(RankName.parse(name), signal.SIGKILL)
        if not running and not self.told():
            self.book.ranks.clear()
            self.facts.append(GangFailed(self.job_id, self.book.epoch, None, why, (), None, final=True))

    def last_lines(self, name: str, count: int = 20) -> tuple[str, ...]:
        """End of a rank's log."""
        try:
            piece, _ = self.context.engine.log(RankName.parse(name), -8192, 8192)
        except (KeyError, ValueError, EngineError, OSError):
            return ()
        return tuple(piece.decode("utf-8", "replace").splitlines()[-count:])

    def press(self, name: str, push: StopSignal, within_s: float) -> None:
        """Ask a rank to leave, at least so hard; if it has not within that time, harder."""
        pressure = self._pressures.get(name)
        now = self.context.clock()
        if pressure is None or pressure.push < push:
            number = (None, signal.SIGTERM, signal.SIGKILL)[push]
            if number is not None:
                self.context.engine.signal(RankName.parse(name), number)
            self._pressures[name] = StopAttempt(push, now, now + within_s)
        self.soon()

    def pressed(self, name: str) -> bool:
        """Whether a rank was asked to leave."""
        return name in self._pressures

    def hold(self, name: str, within_s: float, most_s: float) -> None:
        """The time of a rank that was only told begins now, if it does not hold its GPU for ever that way."""
        pressure = self._pressures.get(name)
        if pressure is not None and pressure.push is StopSignal.TOLD:
            pressure.due_s = min(self.context.clock(), pressure.since_s + most_s) + within_s

    def clear(self) -> None:
        """Deal with the ends of all ranks at once: nothing of this job runs any more."""
        for name in reversed(list(self.book.ranks)):  # the first rank last: its log is the one to show
            self.book.drop(name)
        self.book.trained_gpus = 0
        self.changed()

    def told(self) -> bool:
        """Whether the end of this order was told before; from now on it was."""
        told, self._ended = self._ended, True
        return told

    def vacate(self) -> None:
        """Nothing runs, as it was asked."""
        steps = self.safe_steps()
        self.book.left_gpus = 0
        if self.book.ranks:
            self.clear()
        if not self.told():
            self.facts.append(Vacated(self.job_id, self.book.epoch, steps))

    def _act(self, now: float) -> None:
        try:
            self._save()
            if self._fenced < self.book.epoch:
                self.context.engine.fence(self.job_id, self.book.epoch)
                self._fenced = self.book.epoch
            if not self.book.killed and self.book.failure is None:
                self.carry_out(now)
        except OSError as error:  # a full disk stops what is new, not the end of what must end
            self.trouble = str(error)
            self.soon()
        self._push_on(now)

    def _save(self) -> None:
        if self._saved:
            return
        old, keep = self.book.ended, self.context.limits.ended_kept
        self.book.ended = old[-keep:]
        path = self.context.book_path(self.job_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.book.save(path)
        self._saved = True
        for name in old[:-keep]:
            self.context.engine.forget(RankName.parse(name))

    def _push_on(self, now: float) -> None:
        """Ask those who shall leave; those who were asked and stay, harder."""
        running = set(self.running())
        for name in running:
            if name in self.book.leaving and self.told_by_mail:
                self.press(name, StopSignal.TOLD, self.leave_s())
            elif name in self.book.leaving or name not in self.book.ranks:
                self.press(name, StopSignal.TERMINATED, self.grace_s)
        for name, pressure in list(self._pressures.items()):
            if name not in running:
                del self._pressures[name]
            elif now >= pressure.due_s and pressure.push is StopSignal.KILLED:
                del self._pressures[name]
                self.press(name, StopSignal.KILLED, self.context.limits.kill_s)
            elif now >= pressure.due_s:
                self.press(name, StopSignal(pressure.push + 1), self.context.limits.kill_s)
            else:
                self.soon()

    def _end(self, now: float) -> None:
        """The job was killed, or has failed: nothing of it may run."""
        failure = self.book.failure
        running = self.running()
        for name in running:
            self.press(name, StopSignal.TERMINATED, self.grace_s if failure is None else self.context.limits.kill_s)
        if running:
            return
        if failure is None:
            self.vacate()
            return
        steps = self.safe_steps()
        if self.book.ranks:
            self.clear()
        if not self.told():
            lines = self.last_lines(failure.rank) if failure.rank else ()
            how = failure.final, failure.excused, failure.places
            self.facts.append(GangFailed(self.job_id, self.book.epoch, failure.code, failure.text, lines, steps, *how))


def how_it_ended(code: int | None) -> str:
    """The end of a process in plain words."""
    if code is None:
        return "was lost: nobody knows how it ended (its node has gone, or the process that watched it)"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was ended by signal {-code}"
