"""What the ranks did, and what becomes of their jobs: progress, measurements, completion, failure."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from powerflow.api.records import JobState, Refused
from powerflow.device.protocol import DeviceError
from powerflow.engine.protocol import EngineError
from powerflow.gangs.manager import DEFECT_CHARS
from powerflow.gangs.types import (
    Continued,
    GangCompleted,
    GangEvent,
    GangFailed,
    Hung,
    Noted,
    Progressed,
    RankLost,
    Rescaled,
    Started,
    Vacated,
    backoff_s,
)
from powerflow.live.gpus.gpus import Gpus
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.job_table import JobTable
from powerflow.live.jobs.step_timing import STEPS, timed
from powerflow.scheduler import events as scheduler_events
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.database import StoreError
from powerflow.store.models import Placement, Seen
from powerflow.store.store import Store

#: The store's setting in which the batches stand that ranks told of.
BATCHES = "batches"
#: And that in which stands how long classes have stood still to be rescaled.
PAUSES = "pauses"
#: So many facts are taken in one turn: the loop must not stand still for what one job does.
FACTS_AT_ONCE = 2000


class GangEvents:
    """Takes facts one by one into store, roster and scheduler; one that cannot be stored waits, and those after it.

    Args:
        roster: The active jobs.
        store: Where ends are written first.
        learning: What is measured goes there.
        power: Whether clocks can be set.
        scheduler: Has the axes of each GPU type.
        explore_steps: Steps at each clock that is tried.
        nodes_up: Which nodes answer, as the controller sees it.
        gpu_failed: Whether one of these GPUs is out of service.
        settle: Charges who holds GPUs up to now.
        withdrawn: Is told of a job that the store says has ended already.
        on_defect: Is given the job, and what was raised, where a fact of it brought out a defect of ours.
    """

    def __init__(
        self,
        roster: JobTable,
        store: Store,
        learning: CostLearning,
        power: Gpus,
        scheduler: Scheduler,
        *,
        explore_steps: int,
        nodes_up: Mapping[str, bool],
        gpu_failed: Callable[[Placement], bool],
        settle: Callable[[float], None],
        withdrawn: Callable[[str, float], None],
        completed: Callable[[ActiveJob, float], None],
        failed: Callable[[str], None],
        acts: Callable[[ActiveJob], bool],
        on_defect: Callable[[str, Exception], None],
    ) -> None:
        self._on_defect = on_defect
        self._roster, self._store, self._learning = roster, store, learning
        self._power, self._scheduler, self._explore_steps = power, scheduler, explore_steps
        self._nodes_up, self._settle, self._withdrawn = nodes_up, settle, withdrawn
        self._gpu_failed = gpu_failed
        self._ended, self._gave_up, self._acts = completed, failed, acts
        self._waiting: deque[GangEvent] = deque()
        self._misstated: set[str] = set()  # jobs that have been told so

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, facts: Iterable[GangEvent]) -> None:
        """More facts, to be taken in this order."""
        self._waiting.extend(facts)

    def take_all(self, now_s: float) -> None:
        """Take what waits, at most `FACTS_AT_ONCE`: the rest is taken by the next turn.

        A defect that one fact brings out fails that job ("internal: …") and no other.

        Raises:
            StoreError: The store cannot be written; the fact at hand is taken again the next time.
        """
        for _ in range(min(len(self._waiting), FACTS_AT_ONCE)):
            fact = self._waiting[0]
            entry = self._roster.entries.get(fact.job_id)
            if entry is not None:
                try:
                    self._take(fact, entry, now_s)
                except Refused:  # cancelled this very moment: the store's word stands
                    self._withdrawn(entry.id, now_s)
                except (StoreError, EngineError, DeviceError, OSError):
                    raise  # what is in the way is not the job's
                except Exception as error:  # a defect, brought out by what one job did: only that job ends
                    self._on_defect(entry.id, error)
                    self._break_off(entry, error, now_s)
            self._waiting.popleft()

    def _break_off(self, entry: ActiveJob, error: Exception, now_s: float) -> None:
        text = f"internal: {type(error).__name__}: {error}"[:DEFECT_CHARS]
        with contextlib.suppress(Refused):  # it has ended meanwhile
            self._store.move(entry.id, JobState.FAILED, now_s, exit=text, reason=text)
        self._gave_up(entry.id)
        self._withdrawn(entry.id, now_s)

    def _take(self, fact: GangEvent, entry: ActiveJob, now_s: float) -> None:
        match fact:
            case Progressed():
                self._progressed(fact, entry, now_s)
            case Started():
                if entry.started_s is None:
                    entry.started_s = now_s
                entry.training = True
                self._roster.dirty.add(entry.id)
            case Rescaled():
                if fact.gpus != fact.gpus_before:
                    entry.rescales += 1
                    self._paused(entry, fact.pause_s)
                text = f"from {fact.gpus_before} to {fact.gpus} GPUs in {fact.pause_s:.2f} s"
                self._store.append("rescaled", text, now_s, entry.id, pause_s=fact.pause_s, gpus=fact.gpus)
            case Continued():
                self._continued(fact, entry, now_s)
            case RankLost() | Hung():
                text = fact.reason if isinstance(fact, RankLost) else f"rank {fact.rank} {fact.what} and was ended"
                self._store.append("rank lost", text, now_s, entry.id, rank=fact.rank)
            case Noted():
                self._store.append(fact.kind, fact.text, now_s, entry.id)
            case Vacated():
                if fact.steps_safe is not None and not entry.placement and fact.steps_safe < entry.steps:
                    entry.steps = float(fact.steps_safe)
                    if entry.known:
                        self._roster.events.append(scheduler_events.Failed(entry.id, retry=True, done=entry.steps))
            case GangCompleted():
                self._completed(fact, entry, now_s)
            case GangFailed():
                self._failed(fact, entry, now_s)

    def _paused(self, entry: ActiveJob, pause_s: float) -> None:
        expected_s = self._learning.paused(entry.kind.name, pause_s)
        self._store.put(PAUSES, self._learning.pauses_s)
        for other in self._roster.entries.values():
            if other.known and other.kind.name == entry.kind.name:
                self._roster.events.append(scheduler_events.PauseMeasured(other.id, expected_s))

    def _continued(self, fact: Continued, entry: ActiveJob, now_s: float) -> None:
        """Say what became of the steps that a script had done before it was launched again."""
        lost = max(0, round(entry.steps) - fact.step)
        if fact.went_on:
            text = f"resumed at step {fact.step}" + (f"; {lost} steps are done again" if lost else "")
        else:
            text = f"began again at step {fact.step}, not from a checkpoint: {lost} steps are lost"
            entry.reason = text
        self._store.append(
            "resumed" if fact.went_on else "began again", text, now_s, entry.id, step=fact.step, lost=lost
        )

    def _progressed(self, fact: Progressed, entry: ActiveJob, now_s: float) -> None:
        if fact.step < entry.steps and entry.known:
            self._roster.events.append(scheduler_events.WorkLost(entry.id, float(fact.step)))
        entry.steps = float(fact.step)
        if fact.steps_total and fact.steps_total != entry.steps_total:
            entry.steps_total = float(fact.steps_total)
            if entry.known:
                self._roster.events.append(scheduler_events.SizeLearned(entry.id, entry.steps_total))
        self._roster.dirty.add(entry.id)
        stated = entry.spec.batch.global_batch if entry.spec.batch else None
        if stated and fact.global_batch not in (0, stated) and entry.id not in self._misstated:
            self._misstated.add(entry.id)
            text = f"a step takes {fact.global_batch} samples, batch.global says {stated}: costs are believed wrongly"
            self._store.append("batch misstated", text, now_s, entry.id, global_batch=fact.global_batch)
        if stated is None and fact.global_batch:
            told = {entry.kind.name: fact.global_batch}
            if not told.items() <= self._learning.batches.items():
                self._store.put(BATCHES, self._learning.batches | told)
            self._roster.events += self._learning.batch_is(entry.kind.name, fact.global_batch)
        if not entry.gpu_type or not entry.placement:
            return
        axes, table = self._scheduler.pools[entry.gpu_type].axes, self._learning.table(entry.kind.name, entry.gpu_type)
        steps = self._explore_steps if entry.explore_mhz else STEPS
        # a clock that nobody could set, or was to set, was not set
        clock_mhz = entry.clock_now_mhz if self._power.settable and self._acts(entry) else None
        seen = timed(entry, fact, table, axes, clock_mhz, steps)
        if seen is None:
            return
        self._roster.seen.append(Seen(entry.kind.name, seen, entry.id, now_s, float(steps)))
        self._roster.events += self._learning.observe(entry.kind.name, [seen])
        for other in self._roster.entries.values():  # what one has tried, others need not
            if other.explore_mhz and other.kind.name == entry.kind.name and other.gpus == entry.gpus:
                self.try_next(other, now_s, seen.clock_mhz)

    def try_next(self, entry: ActiveJob, now_s: float, done_mhz: float | None) -> None:
        """A clock need not be tried any more."""
        if entry.explore_mhz[0] == done_mhz:
            entry.explore_since_s = now_s
        entry.explore_mhz = tuple(clock for clock in entry.explore_mhz if clock != done_mhz)

    def _completed(self, fact: GangCompleted, entry: ActiveJob, now_s: float) -> None:
        steps = float(fact.steps) if fact.steps is not None else entry.steps
        entry.steps = steps
        self._settle(now_s)
        self._roster.write_down(entry)
        text = f"completed, but {fact.note}" if fact.note else "completed"
        self._store.move(entry.id, JobState.COMPLETED, now_s, exit=text, reason=text)
        self._store.retire(entry.id)
        self._learning.completed(entry.kind.name, steps)
        self._ended(entry, now_s)
        if entry.known:
            self._roster.events.append(scheduler_events.Completed(entry.id, steps))
        self._roster.drop(entry)

    def _failed(self, fact: GangFailed, entry: ActiveJob, now_s: float) -> None:
        """A run broke off: try again later, a bounded number of times, or give up with its last lines."""
        if fact.epoch < entry.epoch and not entry.placement:
            return  # it was told to leave meanwhile
        placement = fact.places or entry.placement  # before a look at its GPUs takes it away from one that is lost
        self._settle(now_s)
        place_lost = any(not self._nodes_up.get(node, True) for node, _ in placement) or self._gpu_failed(placement)
        excused = place_lost or fact.excused
        spent = entry.attempts >= entry.spec.retries and not excused
        if spent:
            entry.attempts = entry.spec.retries + 1  # no addition: where the store fails it is done again
        if fact.final or spent:
            self._roster.write_down(entry)
            self._store.move(
                entry.id, JobState.FAILED, now_s, exit=fact.text, reason=fact.text, last_lines=fact.last_lines
            )
            self._store.retire(entry.id)
            self._gave_up(entry.id)
            if entry.known:
                self._roster.events.append(scheduler_events.Failed(entry.id, retry=False))
            self._roster.drop(entry)
            return
        attempts = entry.attempts + (not excused)  # that a node or GPU went is no fault of the job's
        wait_s = 0.0 if excused else backoff_s(attempts)
        kind = "requeued" if excused else "failed attempt"
        self._store.append(kind, fact.text, now_s, entry.id, attempt=attempts, wait_s=wait_s)
        entry.attempts = attempts
        entry.eligible_s = now_s + wait_s
        if fact.steps_safe is not None:
            entry.steps = float(fact.steps_safe)
        self._roster.withdraw_from_scheduler(entry)
        if fact.excused:
            said = f"{fact.text}: starts again, which costs no attempt"
        else:
            again = "goes on elsewhere" if place_lost else f"tries again, {attempts} of {entry.spec.retries}"
            said = f"failed ({fact.text}); {again}"
        self._roster.give_back(entry, said)
