"""What the loop does in each turn for what operators have set, budgets, caps and stages; and the log of its outcome."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from powerflow.api.governance import Stage
from powerflow.live.governance.budgets import LiveBudgets
from powerflow.live.governance.caps import Caps
from powerflow.live.governance.savings import SavingsEstimate
from powerflow.live.governance.signals import Signals
from powerflow.live.governance.stages import Stages
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.decision_log import DecisionLog
from powerflow.live.jobs.job_table import JobTable
from powerflow.live.wall_clock import SchedulerTime
from powerflow.scheduler.canary import held_back
from powerflow.scheduler.plan import Plan, Wish
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.store import Store


@dataclass(frozen=True, slots=True)
class GovernanceParts:
    """What operators have set on a live cluster, and what follows from it."""

    caps: Caps
    signals: Signals
    budgets: LiveBudgets
    stages: Stages
    savings: SavingsEstimate
    chronicle: DecisionLog


class GovernanceStep:
    """The loop's hand on the rules.

    Args:
        rules: What is set.
        roster: The active jobs; the scheduler hears of news by it.
        scheduler: The scheduler.
        store: Where warnings go.
        advance: Tells the scheduler of all progress up to now.
        log: A structlog logger.
        scheduler_time: What the scheduler calls now.

    Attributes:
        cap_w, watt_price: Of the last plan.
        notices: What it said of power caps.
    """

    def __init__(
        self,
        rules: GovernanceParts,
        roster: JobTable,
        scheduler: Scheduler,
        store: Store,
        advance: Callable[[], None],
        log: Any,
        scheduler_time: SchedulerTime,
    ) -> None:
        self._rules, self._roster, self._scheduler, self._store = rules, roster, scheduler, store
        self._advance, self._log, self._scheduler_time = advance, log, scheduler_time
        self._outcomes: deque[tuple[str, Mapping[str, float]]] = deque()  # of completed jobs, for canaries
        self.cap_w, self.watt_price = math.inf, 0.0
        self.notices: tuple[str, ...] = ()
        #: What may fail for now, and is tried again in the next turn.
        self.steps = (self._signals, self._budget, self._warn, self._watch_canaries, self._replay, self._record)

    def start(self, now_s: float) -> None:
        """Go on where the last controller was: the first plan must keep to what is set."""
        rules = self._rules
        rules.chronicle.start(now_s)
        rules.savings.start()
        self._roster.events += [rules.stages.acting(), *rules.caps.news(now_s), rules.budgets.start(now_s)]

    def close(self) -> None:
        """End replays that are under way."""
        self._rules.budgets.close()
        self._rules.savings.close()

    def acts(self, entry: ActiveJob) -> bool:
        """Whether a job may be acted on."""
        return self._rules.stages.acts(entry.spec.project)

    def charged(self, entry: ActiveJob, energy_j: float) -> None:
        """A job has used so many joules."""
        self._rules.budgets.charge(entry.spec.project, energy_j)

    def completed(self, entry: ActiveJob, now_s: float) -> None:
        """A job has done its work."""
        self._outcomes.append((entry.spec.project, self._rules.chronicle.ended(entry, now_s)))

    def decided(self, plan: Plan, now_s: float) -> None:
        """The scheduler has decided, and the entries say what."""
        stages, chronicle, entries = self._rules.stages, self._rules.chronicle, self._roster.entries
        self.cap_w, self.watt_price, self.notices = plan.cap_w, plan.watt_price, tuple(plan.notices)
        self._rules.budgets.decided(self._scheduler.limited)
        for entry in entries.values():
            if self._scheduler.caps or not self.acts(entry):
                entry.explore_mhz = ()  # a plan under caps did not reckon with clocks that are tried
            if entry.why:
                chronicle.decided(entry, now_s)
        if stages.has(Stage.SHADOW):
            for job_id, wish in self._wishes(plan).items():
                watched = entries.get(job_id)
                if watched and watched.known and stages.stage_of(watched.spec.project) is Stage.SHADOW:
                    chronicle.wished(watched, wish, now_s)

    def _wishes(self, plan: Plan) -> Mapping[str, Wish]:
        """What would have been decided. A policy that fails in shadow does no harm: it is said, and nothing wished."""
        try:
            return plan.wishes()
        except Exception as error:
            self._log.error("the policy fails in shadow", error=f"{type(error).__name__}: {error}")
            return {}

    # -- steps of a turn ------------------------------------------------------------------------------------------

    def _signals(self, now_s: float) -> None:
        """Keep what was fetched of signals, and fetch what is due."""
        self._rules.signals.refresh(now_s)

    def _budget(self, now_s: float) -> None:
        """Read the meters of budgets, and tell the scheduler on which terms jobs get energy."""
        budgets = self._rules.budgets
        if not budgets.due(now_s):
            return
        self._advance()
        budgets.step(now_s, self._scheduler, self._roster.events)

    def _warn(self, now_s: float) -> None:
        """Say what budgets warn of, each once, and then keep that it was said."""
        budgets = self._rules.budgets
        while budgets.warned:
            self._store.append("budget", str(budgets.warned[0]), now_s)
            self._log.warning("energy budget", what=str(budgets.warned.popleft()))
        if budgets.unsaved:
            budgets.save()

    def _watch_canaries(self, now_s: float) -> None:
        """Take canaries back that slow a protected job, or whose jobs do worse than was predicted."""
        stages = self._rules.stages
        while self._outcomes:
            project, errors = self._outcomes[0]
            self._goes_back(stages.ended(project, errors, now_s), now_s)
            self._outcomes.popleft()
        if stages.has(Stage.CANARY):
            entries = self._roster.entries
            late_s = {
                job_id: late_s
                for job_id, late_s in held_back(self._scheduler, now_s).items()
                if job_id in entries and stages.stage_of(entries[job_id].spec.project) is Stage.CANARY
            }
            self._goes_back(stages.slowed(late_s, now_s), now_s)

    def _goes_back(self, said: str, now_s: float) -> None:
        if said:
            self._roster.events.append(self._rules.stages.acting())
            self._log.warning("canary goes back", what=said)
            self._store.append("canary", said, now_s)

    def _replay(self, now_s: float) -> None:
        """Work out what would have been saved, where nobody acts yet."""
        self._rules.savings.step(now_s, self._roster.events)

    def _record(self, now_s: float) -> None:
        """Write down what is drawn under power caps, and what the scheduler allows."""
        limit_w, at_s = self._scheduler.caps.limit_w, self._scheduler_time.scheduler(now_s)
        self._rules.caps.note(now_s, lambda scope: limit_w(scope, at_s, at_s))

    def clock_set(self, by_s: float) -> None:
        """The machine's clock was set by so many seconds: what is due is looked at anew."""
        self._rules.budgets.clock_set()
        self._rules.savings.clock_set(by_s)
        self._rules.signals.clock_set()
