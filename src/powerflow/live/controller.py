"""Body two: real time around the same scheduler object that the simulator drives.

One thread turns the loop; each turn takes what happened, lets the scheduler decide, writes the intent to the store, and
only then acts. Nothing is believed before it is stored: while the store cannot be written, ranks run on, facts wait in
their queue, and no plan is carried out. A controller that is killed at any moment leaves a store and ranks from which
the next one goes on (`start`).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from powerflow.api.records import JobState, NotFound, Refused
from powerflow.cluster.occupancy import NodeShare
from powerflow.device.protocol import DeviceError
from powerflow.engine.protocol import Engine, EngineError
from powerflow.gangs.manager import Gangs
from powerflow.gangs.report_bounds import MOST_BATCH, MOST_S, within
from powerflow.gangs.types import backoff_s
from powerflow.live.emulation import Emulation
from powerflow.live.event_logger import EventLogger
from powerflow.live.explain_requests import ExplainRequests
from powerflow.live.governance.step import GovernanceParts, GovernanceStep
from powerflow.live.gpu_service import GpuService
from powerflow.live.gpus.gpus import Gpus
from powerflow.live.gpus.wanted import type_held
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.clock_exploration import clocks_to_try
from powerflow.live.jobs.cost_learning import CostLearning, class_of, restore
from powerflow.live.jobs.gang_events import BATCHES, PAUSES, GangEvents
from powerflow.live.jobs.job_table import JobTable, update_of
from powerflow.live.jobs.step_timing import STEPS
from powerflow.live.measurement import Measurement
from powerflow.live.troubles import tell_troubles
from powerflow.live.wall_clock import SchedulerTime, WallClock, moved
from powerflow.scheduler import events as scheduler_events
from powerflow.scheduler.ledger import advance
from powerflow.scheduler.plan import QUIET, Plan
from powerflow.scheduler.scheduler import Scheduler
from powerflow.scheduler.what_if import Insight
from powerflow.store.database import LostClaim, StoreError
from powerflow.store.leader_lease import take
from powerflow.store.mappers import UNREADABLE
from powerflow.store.models import Intent, StoredJob
from powerflow.store.store import Store

#: Logs of so many ended jobs are kept.
LOGS_KEPT = 500
#: So many news of the API are taken in one turn.
NEWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """How the controller goes about it.

    Attributes:
        idle_s, busy_s: Longest time between two turns, while nothing runs and while something does.
        save_s: How often what is known of running jobs goes to the store.
        lease_s: Another controller may take over the store this long after the last sign of this one.
        explore_steps: Steps at each clock when a class first runs on a GPU count; 0: clocks are not tried out.
        pause_s: What a rescale is taken to cost before one was measured, by ``rescale``.
    """

    idle_s: float = 1.0
    busy_s: float = 0.25
    save_s: float = 2.0
    lease_s: float = 30.0
    explore_steps: int = STEPS
    pause_s: Mapping[str, float] = field(default_factory=lambda: {"in-place": 1.0, "restart": 60.0, "none": 60.0})


class News(NamedTuple):
    """What the API tells the loop: a job was submitted, ended, held or released, or a node's state changed."""

    kind: str
    name: str


class Controller:
    """The loop over the scheduler, and everything it keeps in memory.

    Args:
        scheduler: The scheduler, fresh.
        store: What outlives us.
        engine: Where ranks run.
        gangs: Turns intents into ranks.
        power: Meters and clocks.
        learning: What is believed of jobs, fresh.
        settings: See there.
        rules: What operators have set.
        owner: Names this controller in the store's claim.
        runs_as: The login name to run a user's jobs as; "" for the engine's own.
        emulation: Slows scripts on emulated GPUs; None where GPUs are real.
        log: A structlog logger.
        clock: Unix seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        store: Store,
        engine: Engine,
        gangs: Gangs,
        power: Gpus,
        learning: CostLearning,
        *,
        rules: GovernanceParts,
        owner: str,
        log: Any,
        settings: ControllerSettings = ControllerSettings(),
        runs_as: Callable[[str], str] = lambda user: "",
        emulation: Emulation | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.scheduler, self.store, self.engine, self.gangs = scheduler, store, engine, gangs
        self.power, self.learning, self.settings, self.owner = power, learning, settings, owner
        self.rules, self.runs_as, self.emulation = rules, runs_as, emulation
        self.clock = clock or WallClock()
        self._roster = JobTable(store, power, learning, settings.pause_s)
        self.entries = self._roster.entries
        self.snapshot: Mapping[str, ActiveJob] = {}  # copies, for readers in other threads; replaced as a whole
        self.notices: dict[str, str] = {}
        self.turned_s = 0.0
        self.cycle_s = 0.0  # the last decision and all it caused
        self._log = log
        self._inbox: deque[News] = deque()
        self._nodes_up = {n.name: True for pool in scheduler.pools.values() for n in pool.occupancy.nodes}
        self._scheduler_time = SchedulerTime()
        self.governance = GovernanceStep(
            rules, self._roster, scheduler, store, self._advance, log, self._scheduler_time
        )
        self._questions = ExplainRequests(scheduler, self._advance, log, self._scheduler_time)
        self._gpu_service = GpuService(power, engine, store, self._roster, gangs.holding, log)
        self._measuring = Measurement(power, self._roster, scheduler, self.governance, self._gpu_service, gangs.holding)
        self._facts = GangEvents(
            self._roster,
            store,
            learning,
            power,
            scheduler,
            explore_steps=settings.explore_steps,
            nodes_up=self._nodes_up,
            gpu_failed=self._gpu_service.failed_on,
            settle=self._measuring.settle,
            withdrawn=lambda job_id, now_s: self._hear(News("ended", job_id), now_s),
            completed=self.governance.completed,
            failed=rules.chronicle.forget,
            acts=self.governance.acts,
            on_defect=lambda job_id, error: log.error("a defect ended a job", job=job_id, exc_info=error),
        )
        self._events = EventLogger(store, log)
        self._turns = False
        self._draining = False
        self._wake_s = -math.inf
        self._saved_s = self._renewed_s = -math.inf
        self._bell = threading.Event()

    # -- from outside ---------------------------------------------------------------------------------------------

    def tell(self, kind: str, name: str) -> None:
        """News for the loop, from any thread; the store knows already."""
        self._inbox.append(News(kind, name))
        self._bell.set()

    def inquire(self, job_id: str, wait_s: float = 2.0) -> Insight | None:
        """What the scheduler can say of a job: the loop is asked, since nobody else may look into it. Any thread.

        None: it does not know the job, or the loop has no time.
        """
        question = self._questions.ask(job_id)
        if not self._turns:  # nobody turns the loop but who asks
            self._questions.answer(self.clock())
        self.ring()
        question.answered.wait(wait_s)
        return question.answer

    def ring(self) -> None:
        """Turn now."""
        self._bell.set()

    def start(self) -> None:
        """Take the store, and take over what runs.

        Raises:
            Refused: Another controller has the store.
        """
        now_s = self.clock()
        if not take(self.store, self.owner, self.settings.lease_s, now_s):
            raise Refused("another controller runs on this store", fix="stop it first, or wait until its lease ends")
        self._renewed_s = now_s
        self._remember()
        self._roster.events += [
            scheduler_events.NodeDrained(n.name) for n in self.store.node_states().values() if n.state == "drained"
        ]
        self.power.start(now_s)  # first: budgets go on from its meter
        self._gpu_service.start()
        self.governance.start(now_s)
        intents = {intent.job_id: intent for intent in self.store.intents()}
        orders = []
        for job in self.store.active():
            if job.spec is UNREADABLE:  # a later version's, or damaged: nobody knows what it was to be
                self.store.move(job.id, JobState.FAILED, now_s, exit="its record cannot be read by this version")
                continue
            entry = self._roster.enter(job)
            if job.id in intents:
                self._take_over(entry, job, intents[job.id], now_s)
            if (later := self.gangs.epoch_of(job.id)) > entry.epoch:
                self._roster.overtake(entry, later)
            if job.id in intents or job.id in self._roster.unstored:
                orders.append(entry.order(self.runs_as(entry.user)))
            if job.state is JobState.HELD:
                entry.held = True
            elif entry.eligible_s <= now_s:
                self._roster.introduce(entry)
                if entry.placement:
                    shares = tuple(NodeShare(node, gpus) for node, gpus in entry.placement)
                    self._roster.events.append(
                        scheduler_events.Adopted(entry.id, entry.gpu_type, shares, entry.clock_mhz)
                    )
        self.store.intend([self.entries[job_id].intent() for job_id in self._roster.unstored], now_s)
        self._roster.unstored.clear()
        self.gangs.adopt(orders)
        self._measuring.strangers = {
            job_id for job_id in set(self.gangs.holding().values()) if not self._is_known(job_id)
        }
        self._events.start()
        self._log.info("started", jobs=len(self.entries), running=sum(bool(e.placement) for e in self.entries.values()))

    def _remember(self) -> None:
        """What was learned from jobs that have ended, and which of them still have logs."""
        batches = within(self.store.get(BATCHES), MOST_BATCH)
        self.learning.batches.update({name: int(batch) for name, batch in batches.items() if batch >= 1})
        self.learning.pauses_s.update(within(self.store.get(PAUSES), MOST_S))
        ended = [state for state in JobState if state.ended]
        latest = self.store.jobs(ended, limit=LOGS_KEPT).items[::-1]
        self._roster.ended.extend(job.id for job in latest)
        completed = [job for job in latest if job.state is JobState.COMPLETED]
        self._roster.events += restore(
            self.learning,
            ((seen.cost_class, seen.observation) for seen in self.store.observations()),
            ((class_of(job.spec, job.user), job.steps) for job in completed),
        )

    def _take_over(self, entry: ActiveJob, job: StoredJob, intent: Intent, now_s: float) -> None:
        """What the last controller decided for a job holds, as far as it was stored and the cluster still has it."""
        entry.epoch = intent.epoch
        if job.state is JobState.RUNNING:
            entry.placement, entry.clock_mhz = intent.placement, intent.clock_mhz
        if entry.placement:
            entry.gpu_type = type_held(entry.placement, self.scheduler.pools) or ""
        elif intent.gpu_type in self.scheduler.pools:
            entry.gpu_type = intent.gpu_type
        if entry.placement and not entry.gpu_type:
            self._roster.give_back(entry, "its GPUs are no longer part of the cluster")
        elif entry.placement and entry.gpu_type != intent.gpu_type:
            self.store.rename_type(entry.id, entry.gpu_type)
        elif not entry.placement and intent.placement:
            entry.epoch += 1  # it was held, or ended and came back: what was decided is void
            self._roster.unstored[entry.id] = True
        if job.attempts and not entry.placement:
            wait_s = backoff_s(job.attempts)
            entry.eligible_s = min(job.state_since_s, now_s) + wait_s

    def _is_known(self, job_id: str) -> bool:
        try:
            self.store.job(job_id)
        except NotFound:
            return False
        return True

    def run(self, stop: threading.Event) -> None:
        """Turn until told to stop.

        Raises:
            LostClaim: Another controller took the store over (this one was asleep for longer than its lease).
        """
        watcher = threading.Thread(target=self._watch, args=(stop,), name="powerflow-watch", daemon=True)
        watcher.start()
        self._turns = True
        while not stop.is_set():
            self._bell.clear()
            wait_s = self.turn()
            self._bell.wait(wait_s)
        self._turns = False
        watcher.join(5.0)

    def drain(self, most_s: float) -> bool:
        """Let every job save its state and leave, for at most so long; True if nothing runs any more."""
        self._draining = True
        for entry in self.entries.values():
            self._roster.give_back(entry, "the controller drains")
        until_s = self.clock() + most_s
        while self.gangs.holding() or self._roster.unstored:
            if self.clock() >= until_s:
                return False
            self._bell.clear()
            self._bell.wait(min(self.turn(), 0.2))
        return True

    def finish(self) -> None:
        """Save what is known and give the store back; ranks run on.

        Raises:
            LostClaim: Another controller has the store: nothing was saved, and its clocks are left as they are.
        """
        if not self._is_ours():
            self.governance.close()
            raise LostClaim
        try:
            self._save(self.clock(), everything=True)
        finally:
            self.governance.close()
            self.power.finish(give_back=not self.gangs.holding())
        self.store.unclaim(self.owner)
        self._log.info("stopped", jobs=len(self.entries), running=sum(bool(e.placement) for e in self.entries.values()))

    def _is_ours(self) -> bool:
        """Whether the store is still this controller's; while nobody can tell, as long as its lease lasts."""
        try:
            return self.store.claimed_by() == self.owner
        except StoreError:
            return self._holds_lease()

    def _holds_lease(self) -> bool:
        return self.clock() - self._renewed_s < self.settings.lease_s

    def _watch(self, stop: threading.Event) -> None:
        """Ring when a rank's state changes, so that a dead one is seen at once."""
        while not stop.is_set():
            try:
                if self.engine.wait(1.0):
                    self._bell.set()
            except EngineError:  # its agent is away; the loop says so
                stop.wait(1.0)

    # -- one turn -------------------------------------------------------------------------------------------------

    @property
    def nodes_up(self) -> Mapping[str, bool]:
        """Which nodes answer, as the loop saw them last."""
        return self._nodes_up

    @property
    def next_decision_s(self) -> float:
        """When the next decision is due, by this controller's clock; ``inf`` if nothing calls for one."""
        return math.inf if self._draining else max(self._wake_s, self.turned_s)

    def turn(self) -> float:
        """Take what happened, decide, store, act; the answer is how many seconds may pass until the next turn."""
        now_s, began_s = self._now(), time.perf_counter()
        self._guarded(self._renew, now_s)
        if not self._holds_lease():
            return self.settings.busy_s  # the store may be another's by now: hands off until it is known
        self._guarded(self._take_news, now_s)
        self._guarded(self._poll, now_s)
        self._guarded(self._facts.take_all, now_s)
        self._roster.let_go(frozenset(self.gangs.holding().values()))
        self._roster.retry(now_s)
        self._guarded(self._measure, now_s)
        decided = (self._roster.events or now_s >= self._wake_s) and self._decide(now_s)
        for governs in self.governance.steps:  # when the scheduler has heard of every job
            self._guarded(governs, now_s)
        self._guarded(self._act, now_s)
        self._guarded(self._tune, now_s)
        self._guarded(self._save, now_s)
        self._guarded(self._tidy, now_s)
        self._publish(now_s)
        self._questions.answer(now_s)
        if decided:
            self.cycle_s = time.perf_counter() - began_s
        return self._rest_s(now_s)

    def _now(self) -> float:
        """The present. Where the machine's clock was set, moments that were noted before move with it."""
        now_s, set_s = self.clock.both() if isinstance(self.clock, WallClock) else (self.clock(), 0.0)
        by_s = set_s - self._scheduler_time.set_s
        if by_s:
            self._log.warning("the machine's clock was set", by_s=by_s)
            self._roster.events.append(self._scheduler_time.follow(set_s))
            self._wake_s, self._saved_s, self.turned_s = (
                moved(moment_s, by_s) for moment_s in (self._wake_s, self._saved_s, self.turned_s)
            )
            self._renewed_s += by_s - self.settings.lease_s / 3  # the claim speaks of the old time: renew it now
            self.power.clock_set(by_s)
            self._roster.clock_set(by_s)
            self.governance.clock_set(by_s)
        return now_s

    def _guarded(self, step: Callable[[float], None], now_s: float) -> None:
        """Take a step of the turn; what fails for now is said once, and tried again in the next turn."""
        what = step.__name__
        if what != "_renew" and not self._holds_lease():
            return  # this process was stopped in the middle of a turn: the next one asks whose the store is
        try:
            step(now_s)
        except (StoreError, EngineError, DeviceError, OSError) as error:
            if isinstance(error, StoreError) and not error.retry:
                raise
            if self.notices.get(what) != str(error):
                self._log.warning("cannot go on for now", what=what, error=str(error))
            self.notices[what] = str(error)
        else:
            if self.notices.pop(what, None):
                self._log.info("works again", what=what)

    def _renew(self, now_s: float) -> None:
        if now_s - self._renewed_s < self.settings.lease_s / 3:
            return
        if not self.store.renew(self.owner, self.settings.lease_s, now_s):
            raise LostClaim
        self._renewed_s = now_s

    # -- news from the API ---------------------------------------------------------------------------------

    def _take_news(self, now_s: float) -> None:
        for _ in range(min(len(self._inbox), NEWS_AT_ONCE)):  # the rest in the next turn, which comes at once
            self._hear(self._inbox[0], now_s)
            self._inbox.popleft()

    def _hear(self, news: News, now_s: float) -> None:
        match news.kind:
            case "submitted":
                if news.name not in self.entries:
                    job = self.store.job(news.name)
                    if not job.state.ended:
                        self._roster.introduce(self._roster.enter(job))
            case "ended":
                entry = self.entries.get(news.name)
                if entry is not None:
                    self._roster.write_down(entry)
                    self._roster.withdraw_from_scheduler(entry)
                    self.gangs.kill(entry.id)
                    self.rules.chronicle.forget(entry.id)
                    self._roster.drop(entry)
            case "held":
                entry = self.entries.get(news.name)
                if entry is not None and not entry.held:
                    entry.held = True
                    self._roster.withdraw_from_scheduler(entry)
                    self._roster.give_back(entry, "held")
            case "released":
                entry = self.entries.get(news.name)
                if entry is not None and entry.held:
                    entry.held = False
                    self._roster.introduce(entry)
            case "caps":
                self._roster.events += [self._measuring.metered(), *self.rules.caps.news(now_s)]
            case "mode":
                self._roster.events.append(self.rules.stages.acting())
                for entry in self.entries.values():
                    if not self.governance.acts(entry):  # what was timed at a clock that is set is over
                        entry.explore_mhz, entry.window = (), None
            case "drained":
                self._roster.events.append(scheduler_events.NodeDrained(news.name))
            case "resumed":
                self._gpu_service.pardon(news.name)
                if self._nodes_up.get(news.name, True):  # else when it answers again
                    self._roster.events.append(scheduler_events.NodeRecovered(news.name))

    def _tidy(self, now_s: float) -> None:
        """Forget the logs of those who ended longest ago."""
        while len(self._roster.ended) > LOGS_KEPT:
            self.gangs.forget(self._roster.ended[0])
            self._roster.ended.popleft()

    # -- ranks and nodes ------------------------------------------------------------------------------------------

    def _poll(self, now_s: float) -> None:
        self._facts.add(self.gangs.poll())
        tell_troubles(self.gangs.troubles(), self.notices)
        up = dict.fromkeys(self._nodes_up, False) | {node.name: node.up for node in self.engine.nodes()}
        for name in [name for name, is_up in up.items() if self._nodes_up.get(name, True) != is_up]:
            if not up[name]:
                self._roster.events.append(scheduler_events.NodeFailed(name))
            else:
                stored = self.store.node_states().get(name)
                self._roster.events.append(scheduler_events.NodeRecovered(name))
                if stored is not None and stored.state == "drained":
                    self._roster.events.append(scheduler_events.NodeDrained(name))
            self._nodes_up[name] = up[name]

    # -- decisions ------------------------------------------------------------------------------------------------

    def _decide(self, now_s: float) -> bool:
        """Ask the scheduler; True if it decided. What it decided waits to be stored."""
        if self._draining:
            return False
        events, self._roster.events = self._roster.events, []
        told = [self._progress(), *map(self._scheduler_time.told, events)]
        plan = self.scheduler.step(self._scheduler_time.scheduler(now_s), told)
        self._wake_s = self._scheduler_time.wall(plan.wake_s)
        for ignored in plan.ignored:
            self._log.info("the scheduler passes over", what=ignored)
        if plan.decided:
            self._note(plan, now_s)
            self.governance.decided(plan, now_s)
        return plan.decided

    def _progress(self) -> scheduler_events.Progress:
        slots, done = [], []
        for entry in self.entries.values():
            if entry.known and entry.placement and entry.id in self.scheduler.ledger.slot_of:
                slots.append(self.scheduler.slot(entry.id))
                done.append(entry.steps)
        return scheduler_events.Progress(np.array(slots, np.int64), np.array(done))

    def _advance(self) -> None:
        """The scheduler is to know of all progress up to now."""
        now = self._progress()
        if len(now.slots):
            advance(self.scheduler.ledger.rows["done"], now.slots, now.done)

    def _note(self, plan: Plan, now_s: float) -> None:
        """Take a plan down in the entries: what each job is to hold, and why."""
        price = max(plan.gpu_price.values(), default=0.0)
        for job_id, reason in plan.reasons().items():
            entry = self.entries.get(job_id)
            if entry is None or not entry.known:  # it is leaving
                continue
            if entry.why != reason.why or reason.why not in QUIET:
                entry.reason, entry.why, entry.decided_s = entry.said(reason), reason.why.value, now_s
                self._roster.dirty.add(job_id)
            entry.gpu_price = price
        for change in plan.changes:
            entry = self.entries.get(change.job_id)
            if entry is None or not entry.known:
                continue
            why, gpus, clock_mhz = entry.said(change.reason), change.gpus, change.clock_mhz
            self._log.info("decided", job=entry.id, what=why, gpus=gpus, clock_mhz=clock_mhz)
            entry.clock_mhz = change.clock_mhz
            if change.moved or change.gpus == 0:
                placement = self.scheduler.pools[change.pool].occupancy.placement(change.slot)
                entry.placement = tuple((share.node, share.gpus) for share in placement)
                entry.gpu_type = change.pool
                entry.epoch += 1
                entry.training, entry.window = False, None
                entry.explore_mhz = self._clocks_to_try(entry) if change.gpus else ()
                if entry.spec.rescale == "none" and len(entry.placement) > 1:
                    self._refuse(entry)
                    continue
            self._roster.unstored[entry.id] = (
                self._roster.unstored.get(entry.id, False) or change.moved or change.gpus == 0
            )
        self._reconcile()

    def _refuse(self, entry: ActiveJob) -> None:
        """One process cannot use GPUs of several nodes: its job waits until a node has enough."""
        self._roster.give_back(entry, f"waits for {entry.gpus} GPUs on one node")
        self._roster.events.append(scheduler_events.Failed(entry.id, retry=True, done=entry.steps))

    def _reconcile(self) -> None:
        """Jobs that could not be adopted where they ran give those GPUs back."""
        for entry in self.entries.values():
            if entry.known and entry.placement and entry.id not in self._roster.unstored:
                slot = self.scheduler.slot(entry.id)
                if not self.scheduler.ledger.rows["gpus"][slot]:
                    self._roster.give_back(entry, entry.reason)

    def _clocks_to_try(self, entry: ActiveJob) -> tuple[float, ...]:
        if not self.settings.explore_steps or not self.power.settable:
            return ()
        return clocks_to_try(entry, self.learning, self.scheduler.pools[entry.gpu_type].axes)

    # -- deeds ----------------------------------------------------------------------------------------------------

    def _act(self, now_s: float) -> None:
        """Write down what was decided, then do it."""
        if not self._roster.unstored:
            return
        entries = [self.entries[job_id] for job_id in self._roster.unstored]
        if any(entry.placement for entry in entries):
            self.store.beat()
        # who was cancelled or held this very moment is left out; that news is in the inbox
        out = self.store.intend([entry.intent() for entry in entries], now_s)
        self.store.update([update_of(entry) for entry in entries])
        moved = [entry for entry in entries if self._roster.unstored[entry.id] and entry.id not in out]
        self.gangs.apply([entry.order(self.runs_as(entry.user)) for entry in moved])
        self._roster.unstored.clear()
        self._facts.add(self.gangs.poll())

    def _tune(self, now_s: float) -> None:
        """Every GPU at the clock of the job that is on it; those as they were before that nobody is on, or acts on."""
        wanted = {}
        for place, job_id in self.gangs.holding().items():
            entry = self.entries.get(job_id)
            if entry is None or not self.governance.acts(entry):
                continue
            if entry.placement and entry.clock_now_mhz > 0:
                wanted[place] = entry.clock_now_mhz
        self.power.tune(now_s, wanted)
        if self.emulation is not None:
            self.emulation.follow(self.engine.ranks(), self.entries)
        self.power.audit()  # last: clocks are set whether or not that can be written down now

    def _measure(self, now_s: float) -> None:
        self._measuring.measure(now_s, self._facts)

    def _save(self, now_s: float, *, everything: bool = False) -> None:
        """Write what has changed of running jobs, what was measured and who owes which joules."""
        if not everything and now_s - self._saved_s < self.settings.save_s:
            return
        self._gpu_service.say(now_s)
        self._roster.save()
        self.rules.chronicle.save()
        self._events.follow()
        self._saved_s = now_s

    def _publish(self, now_s: float) -> None:
        self.snapshot = self._roster.copies()
        self.turned_s = now_s

    def _rest_s(self, now_s: float) -> float:
        """Seconds until something is due, unless the bell rings."""
        busy = self.settings.busy_s if any(entry.placement for entry in self.entries.values()) else self.settings.idle_s
        if self._questions:
            return 0.0
        if self._roster.unstored or self._facts or self._inbox:
            return self.settings.busy_s  # something could not be stored: try again soon
        return busy if self._draining else max(0.0, min(busy, self._wake_s - now_s))
