"""Run the loop of a live cluster, which calls the scheduler with the real time and real events.

The scheduler is the same object as in the simulator. One thread runs the loop. Each turn (`Controller.turn`)

1. renews the lease on the store, and does nothing more if that fails;
2. takes in commands of the API, events of the gangs, and readings of the GPUs;
3. lets the scheduler decide;
4. stores what was decided, and only then carries it out.

A decision or event is valid only after it is stored. While the store cannot be written, ranks continue, events wait in
their queue, and no plan is carried out. A controller may be killed at any moment. The next controller then continues
from the store and the ranks that still run (`powerflow.live.recovery`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from powerflow.api.records import Refused
from powerflow.device.protocol import DeviceError
from powerflow.engine.protocol import Engine, EngineError
from powerflow.gangs.manager import Gangs
from powerflow.live.admission import Admission
from powerflow.live.commands import ApiCommand, ApiCommands
from powerflow.live.context import LoopContext
from powerflow.live.controller_settings import DEFAULTS, ControllerSettings
from powerflow.live.event_logger import EventLogger
from powerflow.live.external_jobs import ExternalJobs
from powerflow.live.gang_events import GangEvents
from powerflow.live.governance.step import GovernanceParts, GovernanceStep
from powerflow.live.gpu_service import GpuService
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.job_table import JobTable
from powerflow.live.loop_questions import LoopQuestions
from powerflow.live.measurement import Measurement
from powerflow.live.node_watch import NodeWatch
from powerflow.live.notices import Notices
from powerflow.live.plan_executor import PlanExecutor
from powerflow.live.recent import RecentSamples
from powerflow.live.recovery import LOGS_KEPT, adopt, recall
from powerflow.live.shells import UserShells
from powerflow.live.step_learning import StepLearning
from powerflow.live.turn_times import TurnTimes
from powerflow.live.wall_clock import SchedulerTime, WallClock, moved
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.database import LostClaim, StoreError
from powerflow.store.store import Store

Answer = TypeVar("Answer")

#: Jobs whose troubles are shown among the notices.
TROUBLES_SHOWN = 10


class Controller:
    """Run the loop of one live cluster.

    Args:
        scheduler, learning: New objects; `start` fills them from the store.
        governance: The budgets, power caps, signals and stages that operators have set.
        owner: Name of this controller in the store's lease.
        log: A structlog logger.
        beside: Name of the scheduler that starts and ends the jobs of this cluster; "" if PowerFlow does.
        runs_as: Returns the login that a user's jobs run as; "" for the login of the engine.
        clock: Returns the present in Unix seconds.

    Attributes:
        jobs: Active jobs by id. Only the loop's thread may use it; other threads read `snapshot`.
        snapshot, completing: Copies of the active jobs, and of those that are completing (they have their final state,
            but processes may still run). They are replaced as a whole after each turn.
        notices: Messages for operators.
        shells: Shells that users have opened beside ranks.
        recent: What the cluster drew in the last hours, and what GPUs and joules were worth.
        turned_s, turn_times: When the last turn ended, and how long turns took.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        store: Store,
        engine: Engine,
        gangs: Gangs,
        power: ClusterGpus,
        learning: CostLearning,
        *,
        governance: GovernanceParts,
        owner: str,
        log: Any,
        settings: ControllerSettings = DEFAULTS,
        beside: str = "",
        runs_as: Callable[[str], str] = lambda user: "",
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.scheduler, self.store, self.engine, self.gangs = scheduler, store, engine, gangs
        self.power, self.learning, self.settings, self.owner = power, learning, settings, owner
        self.governance, self.clock = governance, clock or WallClock()
        self.snapshot: Mapping[str, ActiveJob] = {}
        self.completing: Mapping[str, ActiveJob] = {}
        self.notices, self.shells = Notices(), UserShells(store, engine, gangs, self.clock)
        self.turned_s, self.recent, self.turn_times = 0.0, RecentSamples(), TurnTimes()
        self._log = log
        self._scheduler_time, self._table = SchedulerTime(), JobTable(store, power, learning, settings.pause_s)
        self.jobs = self._table.jobs
        self._context = context = LoopContext(
            scheduler, self._scheduler_time, self._table, store, engine, gangs, power, learning, runs_as, log
        )
        self.nodes = NodeWatch(context)
        self.governance_step = GovernanceStep(context, governance)
        self._gpu_service = GpuService(context, strangers_expected=bool(beside))
        self._measurement = Measurement(context, self.governance_step, self._gpu_service)
        below = self.nodes, self._gpu_service, self.governance_step, self._measurement
        learning_steps = StepLearning(context, self.governance_step, settings.explore_steps)
        self._gang_events = GangEvents(context, *below, learning_steps)
        self._external = ExternalJobs(context, self._gang_events, learning_steps)
        self._commands = ApiCommands(context, *below, self._gang_events, self._external)
        self._admission = Admission(context, self._gang_events)
        self._executor = PlanExecutor(context, self.governance_step, settings.explore_steps)
        self._questions = LoopQuestions(context)
        self._event_logger = EventLogger(context)
        self._running = self._draining = False  # while it drains, it decides nothing new
        self._saved_s = self._renewed_s = -math.inf
        self._bell = threading.Event()

    # -- for any thread -----------------------------------------------------------------------------------------------

    @property
    def next_decision_s(self) -> float:
        """When the next decision is due (Unix seconds); inf if no decision is needed."""
        return math.inf if self._draining else max(self._executor.wake_s, self.turned_s)

    def tell(self, command: ApiCommand) -> None:
        """Give the loop a command to carry out. Write the request to the store before this call."""
        self._commands.put(command)
        self._bell.set()

    def inquire(self, ask: Callable[[LoopContext, float], Answer], wait_s: float = 2.0) -> Answer | None:
        """Let the loop answer a question, because no other thread may use the scheduler.

        Args:
            ask: Returns the answer from the objects of the loop and the present (Unix seconds). It changes nothing.
            wait_s: Most seconds to wait for the loop.

        Returns:
            The answer; None if the question failed, or the loop does not answer in ``wait_s`` seconds.
        """
        question = self._questions.put(ask)
        if not self._running:  # no other thread turns the loop
            self._questions.answer(self.clock())
        self.ring()
        question.answered.wait(wait_s)
        return question.answer

    def ring(self) -> None:
        """Wake the loop, so that its next turn begins now."""
        self._bell.set()

    # -- start and end ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the lease on the store, and take over the jobs that run.

        Raises:
            Refused: Another controller has the store.
        """
        now_s = self.clock()
        if not self.store.lease.take(self.owner, self.settings.lease_s, now_s):
            raise Refused("another controller runs on this store", fix="stop that one, or wait until its lease ends")
        self._renewed_s = now_s
        recall(self._context)
        self.nodes.start()
        self.power.start(now_s)  # before budgets, which use its meter
        self._gpu_service.start()
        self.governance_step.start(now_s)
        adopt(self._context, now_s)
        self.shells.start()
        self._event_logger.start()
        self._log_jobs("started")

    def run(self, stop: threading.Event) -> None:
        """Run turn after turn until ``stop`` is set.

        Raises:
            LostClaim: Another controller has taken the store, because this one did not renew its lease in time.
        """
        watcher = threading.Thread(target=self._watch, args=(stop,), name="powerflow-watch", daemon=True)
        watcher.start()
        self._running = True
        while not stop.is_set():
            self._bell.clear()
            self._bell.wait(self.turn_times.timed(self.turn))
        self._running = False
        watcher.join(5.0)

    def _watch(self, stop: threading.Event) -> None:
        """Wake the loop when a rank's state changes, so that the end of a rank is seen at once."""
        while not stop.is_set():
            try:
                if self.engine.wait(1.0):
                    self._bell.set()
            except EngineError:  # the loop reports that the engine does not answer
                stop.wait(1.0)

    def drain(self, most_s: float) -> bool:
        """Let every job save its state and end, in at most ``most_s`` seconds. Return True if no job runs then."""
        self._draining = True
        for job in self.jobs.values():
            self._table.vacate(job, "the controller drains")
        until_s = self.clock() + most_s
        while self.gangs.holding() or self._table.pending:
            if self.clock() >= until_s:
                return False
            self._bell.clear()
            self._bell.wait(min(self.turn(), 0.2))
        return True

    def settle(self, most_s: float, hurry: threading.Event) -> Sequence[str]:
        """Carry out the decisions that were made, so that no job stays between two placements. Decide nothing new.

        Args:
            most_s: Most seconds that this may take.
            hurry: Set to end at once.

        Returns:
            The jobs that are still between two placements.
        """
        self._draining = True
        until_s = self.clock() + most_s
        while (left := self._unsettled()) and self.clock() < until_s and not hurry.is_set():
            self._bell.clear()
            self._bell.wait(min(self.turn(), 0.2))
        return left

    def _unsettled(self) -> Sequence[str]:
        return sorted({*self.gangs.on_their_way(), *self._table.pending}, key=int)

    def finish(self) -> None:
        """Store the state of the loop, and release the lease on the store. The ranks of all jobs continue.

        Raises:
            LostClaim: Another controller has the store. Nothing was stored, and clocks are left as they are.
        """
        if not self._is_ours():
            self.governance_step.close()
            raise LostClaim
        try:
            self._save(self.clock(), everything=True)
            self.shells.finish()
        finally:
            self.governance_step.close()
            self.power.finish(give_back=not self.gangs.holding())
        self.store.lease.give_back(self.owner)
        self._log_jobs("stopped")

    def _log_jobs(self, what: str) -> None:
        self._log.info(what, jobs=len(self.jobs), running=sum(bool(job.placement) for job in self.jobs.values()))

    def _is_ours(self) -> bool:
        """Return True if this controller still has the store.

        If the store does not answer, return whether the lease still lasts.
        """
        try:
            return self.store.lease.claimed_by() == self.owner
        except StoreError:
            return self._holds_lease()

    def _holds_lease(self) -> bool:
        return self.clock() - self._renewed_s < self.settings.lease_s

    # -- one turn -----------------------------------------------------------------------------------------------------

    def turn(self) -> float:
        """Run one turn of the loop: read commands and events, decide, store the decision, carry it out.

        Return the longest time until the next turn, in seconds.
        """
        now_s = self._now()
        self._guarded("lease", self._renew, now_s)
        if not self._holds_lease():
            return self.settings.busy_s  # another controller may have the store by now: do nothing until this is known
        self._guarded("commands", self._commands.take_all, now_s)
        self._guarded("gangs", self._poll, now_s)
        self._guarded("gang events", self._gang_events.take_all, now_s)
        self._guarded("ends", self._gang_events.finish, now_s)
        self._table.let_go(frozenset(self.gangs.holding().values()))
        self._guarded("jobs of another scheduler", self._external.try_again, now_s)
        self._guarded("starts", self._admission.admit, now_s)
        self._guarded("meters", self._measurement.measure, now_s)
        self._guarded("work", self._external.count_work, now_s)
        self._guarded("time limits", self._admission.expire, now_s)
        if self._table.has_events or now_s >= self._executor.wake_s:
            self._decide(now_s)
        for step in self.governance_step.steps:  # after the scheduler has heard of every job
            self._guarded(step.__name__, step, now_s)
        self._guarded("decisions", self._act, now_s)
        self._guarded("clocks", self._executor.tune, now_s)
        self._guarded("shells", self.shells.look, now_s)
        self._guarded("samples", self._sample, now_s)
        self._guarded("store", self._save, now_s)
        self._guarded("logs", self._forget_logs, now_s)
        self.snapshot, self.completing = self._table.copies(), self._table.completing_copies()
        self.turned_s = now_s
        self._questions.answer(now_s)
        return self._rest_s(now_s)

    def _now(self) -> float:
        """Return the present.

        If the machine's clock was set, move all earlier moments by the same number of seconds.
        """
        now_s, set_s = self.clock.both() if isinstance(self.clock, WallClock) else (self.clock(), 0.0)
        by_s = set_s - self._scheduler_time.set_s
        if by_s:
            self._log.warning("the machine's clock was set", by_s=by_s)
            self._table.emit(self._scheduler_time.follow(set_s))
            self._saved_s, self.turned_s = moved(self._saved_s, by_s), moved(self.turned_s, by_s)
            self._renewed_s += by_s - self.settings.lease_s / 3  # the stored lease ends by the old time: renew it now
            self._executor.clock_set(by_s)
            self.power.clock_set(by_s)
            self._table.clock_set(by_s)
            self.governance_step.clock_set(by_s)
        return now_s

    def _guarded(self, what: str, step: Callable[[float], None], now_s: float) -> None:
        """Run one action of the turn. An action that fails for now is reported once, and the next turn repeats it."""
        if what != "lease" and not self._holds_lease():
            return  # this process was stopped in the middle of a turn: the next turn asks for the lease
        try:
            step(now_s)
        except (StoreError, EngineError, DeviceError, OSError) as error:
            if isinstance(error, StoreError) and not error.retry:
                raise
            if self.notices.show(what, str(error) or type(error).__name__):
                self._log.warning("cannot continue at the moment", what=what, error=str(error))
        else:
            if self.notices.show(what, ""):
                self._log.info("works again", what=what)

    def _renew(self, now_s: float) -> None:
        if now_s - self._renewed_s < self.settings.lease_s / 3:
            return
        if not self.store.lease.renew(self.owner, self.settings.lease_s, now_s):
            raise LostClaim
        self._renewed_s = now_s

    def _poll(self, now_s: float) -> None:
        self._gang_events.poll()
        self._show_troubles()
        self.nodes.look(now_s)

    def _show_troubles(self) -> None:
        """Show as notices what could not be done for single jobs and for the engine."""
        troubles = self.gangs.troubles()
        engine = [troubles.pop("")] if "" in troubles else []
        of_jobs = [f"job {job_id}: {trouble}" for job_id, trouble in sorted(troubles.items())]
        shown = [*engine, *of_jobs[:TROUBLES_SHOWN]]
        for number in range(TROUBLES_SHOWN + 1):
            self.notices.show(f"trouble {number}", shown[number] if number < len(shown) else "")

    def _decide(self, now_s: float) -> None:
        if not self._draining:
            self._executor.decide(now_s)

    def _act(self, now_s: float) -> None:
        if self._executor.act(now_s):
            self._gang_events.poll()

    def _sample(self, now_s: float) -> None:
        if self.recent.is_due(now_s):
            prices = self._executor.gpu_price, self.scheduler.energy_price
            self.recent.add(now_s, self.power.power_w(), self.governance_step.cap_w, *prices)

    def _save(self, now_s: float, *, everything: bool = False) -> None:
        """Store what has changed of running jobs, what was measured, decided and charged; log what happened."""
        if not everything and now_s - self._saved_s < self.settings.save_s:
            return
        self._gpu_service.save(now_s)
        self._table.save()
        self.governance_step.save()
        self._event_logger.follow()
        self._saved_s = now_s

    def _forget_logs(self, now_s: float) -> None:
        self._table.forget_logs(LOGS_KEPT, self.gangs.forget)

    def _rest_s(self, now_s: float) -> float:
        """Return the seconds until something is due; an event may wake the loop earlier."""
        if self._questions:
            return 0.0
        if self._table.pending or self._gang_events or self._commands:
            return self.settings.busy_s  # something could not be stored: try again soon
        running = any(job.placement for job in self.jobs.values())
        rest_s = self.settings.busy_s if running else self.settings.idle_s
        due_s = self._executor.wake_s - now_s
        # a decision that is due in every turn (an interval of 0) must not make the loop run without rest
        return rest_s if self._draining else min(rest_s, due_s if due_s > 0 else self.settings.busy_s)
