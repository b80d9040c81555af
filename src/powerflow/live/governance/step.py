"""Apply the power caps, energy budgets, signals and rollout stages of operators in each turn of the loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow.api.loop_figures import CapReading
from powerflow.api.stages import Stage
from powerflow.live.context import LoopContext
from powerflow.live.governance.budgets import LiveBudgets
from powerflow.live.governance.caps import Caps
from powerflow.live.governance.savings import SavingsEstimate
from powerflow.live.governance.shares import Shares
from powerflow.live.governance.signals import Signals
from powerflow.live.governance.stages import Stages
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.decision_log import DecisionLog
from powerflow.scheduler.canary import held_back
from powerflow.scheduler.cap import Scope
from powerflow.scheduler.events import Event
from powerflow.scheduler.plan import Plan, Wish


@dataclass(frozen=True, slots=True)
class GovernanceParts:
    """The budgets, caps, shares, signals and stages that operators have set, and the log of decisions."""

    caps: Caps
    shares: Shares
    signals: Signals
    budgets: LiveBudgets
    stages: Stages
    savings: SavingsEstimate
    decision_log: DecisionLog


class GovernanceStep:
    """Apply the budgets, caps, signals and stages of operators in each turn of one controller's loop.

    Attributes:
        cap_w, watt_price: Power limit in watts (inf: none) and what a watt was worth, in the last plan.
        gpu_prices: Price of a GPU in the last decision, by GPU type.
        cap_readings: Power of each part of the cluster for which a cap sets a limit, and that limit, in the last turn.
        notices: Messages of the last plan about power caps.
        steps: Actions of each turn. If an action fails for now, the next turn repeats it.
    """

    def __init__(self, context: LoopContext, parts: GovernanceParts) -> None:
        self._parts, self._table, self._scheduler = parts, context.table, context.scheduler
        self._store, self._log, self._scheduler_time = context.store, context.log, context.scheduler_time
        self._outcomes: deque[tuple[str, Mapping[str, float]]] = deque()  # of completed jobs, for canaries
        self.cap_w, self.watt_price = math.inf, 0.0
        self.gpu_prices: Mapping[str, float] = {}
        self.cap_readings: Sequence[CapReading] = ()
        self.notices: tuple[str, ...] = ()
        self.steps = (self._signals, self._budget, self._warn, self._watch_canaries, self._replay, self._record)

    def start(self, now_s: float) -> None:
        """Restore what operators have set (budgets, caps, shares, stages), so that the first plan respects it."""
        parts = self._parts
        parts.decision_log.start(now_s)
        parts.savings.start()
        self._table.emit(
            parts.stages.acting(), parts.shares.event(), *parts.caps.news(now_s), parts.budgets.start(now_s)
        )

    def close(self) -> None:
        """End the processes of all replays that are running."""
        self._parts.budgets.close()
        self._parts.savings.close()

    def save(self) -> None:
        """Store the log of decisions."""
        self._parts.decision_log.save()

    def clock_set(self, by_s: float) -> None:
        """Check again which actions are due, because the machine's clock was set by ``by_s`` seconds."""
        self._parts.budgets.clock_set()
        self._parts.savings.clock_set(by_s)
        self._parts.signals.clock_set()

    def shares_changed(self) -> None:
        """Tell the scheduler the shares of projects, because one was set."""
        self._table.emit(self._parts.shares.event())

    # -- what happens in the loop -----------------------------------------------------------------------------------

    def acts(self, job: ActiveJob) -> bool:
        """Return True if PowerFlow manages this job: the stage of its project is canary or enforce.

        A job of another scheduler may also be left alone.
        """
        return not job.spec.untouched and self._parts.stages.acts(job.spec.project)

    def charged(self, project: str, energy_j: float) -> None:
        """Charge a project with the joules that one of its jobs has used."""
        self._parts.budgets.charge(project, energy_j)

    def completed(self, job: ActiveJob, now_s: float) -> None:
        """Compare the time and energy of a completed job with the predictions."""
        self._outcomes.append((job.spec.project, self._parts.decision_log.ended(job, now_s)))

    def dropped(self, job: ActiveJob) -> None:
        """Forget the predictions for a job that did not complete."""
        self._parts.decision_log.forget(job.id)

    def caps_news(self, now_s: float) -> Sequence[Event]:
        """Return the changes of power caps since the last call, as events for the scheduler."""
        return self._parts.caps.news(now_s)

    def stages_changed(self) -> None:
        """Tell the scheduler which jobs are managed now.

        The steps of unmanaged jobs are then measured again, at the clocks of their GPUs.
        """
        self._table.emit(self._parts.stages.acting())
        for job in self._table.jobs.values():
            if not self.acts(job):
                job.unmanaged()

    def decided(self, plan: Plan, now_s: float) -> None:
        """Log what a plan decides for each job. Write the plan to the job table before this call."""
        stages, decision_log, jobs = self._parts.stages, self._parts.decision_log, self._table.jobs
        self.cap_w, self.watt_price, self.notices = plan.cap_w, plan.watt_price, tuple(plan.notices)
        if not plan.early:  # an early plan prices the free GPUs alone
            self.gpu_prices = plan.gpu_price
        self._parts.budgets.decided(self._scheduler.limited)
        for job in jobs.values():
            if self._scheduler.caps or not self.acts(job):
                job.explore(())  # a plan under caps does not allow for other clocks
            if job.why:
                decision_log.decided(job, now_s)
        if stages.has(Stage.SHADOW):
            for job_id, wish in self._wishes(plan).items():
                shadow = jobs.get(job_id)
                if shadow and shadow.known and stages.stage_of(shadow.spec.project) is Stage.SHADOW:
                    decision_log.wished(shadow, wish, now_s)

    def _wishes(self, plan: Plan) -> Mapping[str, Wish]:
        """Return what the policy would decide for jobs in stage shadow.

        If the policy fails, log it and return nothing.
        """
        try:
            return plan.wishes()
        except Exception as error:
            self._log.error("the policy fails in shadow", error=f"{type(error).__name__}: {error}")
            return {}

    # -- steps of a turn ------------------------------------------------------------------------------------------

    def _signals(self, now_s: float) -> None:
        """Store fetched signals, and fetch the signals that are due."""
        self._parts.signals.refresh(now_s)

    def _budget(self, now_s: float) -> None:
        """Read the meters of budgets, and tell the scheduler the energy price and the limit in watts."""
        budgets = self._parts.budgets
        if not budgets.due(now_s):
            return
        self._table.advance(self._scheduler)
        budgets.step(now_s, self._scheduler, self._table)

    def _warn(self, now_s: float) -> None:
        """Log each warning of a budget once, and then store that it was logged."""

        def tell(warning: str) -> None:
            self._store.append("budget", warning, now_s)
            self._log.warning("energy budget", what=warning)

        self._parts.budgets.warn(tell)

    def _watch_canaries(self, now_s: float) -> None:
        """Return a project from stage canary to shadow if it slows a protected job, or does worse than predicted."""
        stages = self._parts.stages
        while self._outcomes:
            project, errors = self._outcomes[0]
            self._goes_back(stages.ended(project, errors, now_s), now_s)
            self._outcomes.popleft()
        if stages.has(Stage.CANARY):
            jobs = self._table.jobs
            late_s = {
                job_id: late_s
                for job_id, late_s in held_back(self._scheduler, now_s).items()
                if job_id in jobs and stages.stage_of(jobs[job_id].spec.project) is Stage.CANARY
            }
            self._goes_back(stages.slowed(late_s, now_s), now_s)

    def _goes_back(self, said: str, now_s: float) -> None:
        if said:
            self._table.emit(self._parts.stages.acting())
            self._log.warning("canary goes back", what=said)
            self._store.append("canary", said, now_s)

    def _replay(self, now_s: float) -> None:
        """Estimate what PowerFlow would save on projects whose jobs it does not manage yet."""
        self._parts.savings.step(now_s, self._table)

    def _record(self, now_s: float) -> None:
        """Record the watts that are drawn and the watts that are allowed under power caps."""
        limit_w, at_s = self._scheduler.caps.limit_w, self._scheduler_time.scheduler(now_s)

        def allowed_w(scope: Scope) -> float:
            return limit_w(scope, at_s, at_s)

        self.cap_readings = self._parts.caps.readings(allowed_w)
        self._parts.caps.note(now_s, allowed_w)
