"""Keep the energy budgets of a live cluster, and send the scheduler the energy price and the limits in watts.

Each budget has a governor (`powerflow.energy.budgets`), as in the simulator. This module gives the governors meter
readings and the energy that active jobs still need. Once a day it also gives them a replay of the last day's jobs. It
stores the states of the governors.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict

from powerflow.api.governance import AuditRecord, BudgetOrder, BudgetRecord, audited
from powerflow.api.records import Caller, NotFound
from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.catalogue import gpu_type
from powerflow.cost.table import Axes
from powerflow.energy.budget import Warned, window_at
from powerflow.energy.budgets import Budgets
from powerflow.energy.governor import Governor
from powerflow.energy.price import REPLAYED, natural_price_of
from powerflow.energy.response import Response
from powerflow.errors import InputError
from powerflow.live.governance.past_days import past_days
from powerflow.live.governance.replay_process import ReplayProcess, Respond
from powerflow.live.governance.signals import Signals
from powerflow.live.governance.stored_budget import StoredBudget
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.job_table import JobTable
from powerflow.scheduler import events as scheduler_events
from powerflow.scheduler.remaining_energy import remaining_energy_j
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.store import Store
from powerflow.units import DAY_S, HOUR_S, kwh

#: Settings in the store: budgets, and the states of their governors.
BUDGETS, KEEPERS = "budgets", "budget keepers"
#: Seconds between two times at which meters are read and the energy price and limits are set.
TICK_S = 60.0
#: Days that are replayed for a new budget.
KNOWN_DAYS = 14
#: Wait after a replay that failed, seconds.
RETRY_S = HOUR_S


class LiveBudgets:
    """Keep all energy budgets of one cluster.

    Any thread may call `set`, `drop`, `show`, `words` and `notices`; only the controller's loop may call the rest.

    Args:
        store: Keeps the budgets and the states of their governors.
        cluster: The cluster.
        meter_j: Returns the joules that the whole cluster has used so far.
        signals: The signals that change the energy price over the day.
        learning: Has the believed costs of all jobs.
        axes: GPU counts and clocks that jobs may have, by GPU type.
        respond: Function that replays past days; with None, prices stay 0.
        price: λ_E (s/J) while the cluster has no budget.
        emulated: True if the GPUs are emulated.
    """

    def __init__(
        self,
        store: Store,
        cluster: ClusterSpec,
        meter_j: Callable[[], float],
        signals: Signals,
        learning: CostLearning,
        axes: Mapping[str, Axes],
        *,
        respond: Respond | None = None,
        price: float = 0.0,
        emulated: bool = False,
    ) -> None:
        cards = [gpu_type(node.gpu_type) for node in cluster.nodes for _ in range(node.gpus)]
        self.idle_w = sum(card.idle_w for card in cards)
        self.prices = tuple(share * natural_price_of(cards) for share in REPLAYED)
        self._store, self._cluster, self._meter_j, self._signals = store, cluster, meter_j, signals
        self._learning, self._axes = learning, axes
        self._respond, self._price, self._emulated = respond, price, emulated
        self._lock = threading.RLock()  # the loop changes what other threads show
        self._stored: dict[str, StoredBudget] = {}
        self._governors: dict[str, Governor] = {}
        self._project_j: dict[str, float] = {}
        self._learnt_s: float | None = None
        self._limited: frozenset[str] = frozenset()  # whose limits hold jobs back in the last decision
        self._limited_since: frozenset[str] = frozenset()  # the same, in any decision since the meters were read
        self._unsaved = False  # True if governors know more than the store
        self._due_s = -math.inf
        self._retry_s = -math.inf
        self._warned: deque[Warned] = deque()  # not logged yet
        self._replaying: ReplayProcess[Sequence[Mapping[str, Response]]] | None = None
        self._pupils: set[str] = set()  # budgets (by project, "": cluster) that learn from the replay
        self._jobless: set[str] = set()  # budgets without jobs in the replay: they wait for the daily replay
        self._shares: Sequence[float] = ()
        self._terms: scheduler_events.Event | None = None  # the last prices and limits that the scheduler was told
        self._trouble = ""

    # -- from outside ---------------------------------------------------------------------------------------------

    def set(self, order: BudgetOrder, caller: Caller, now_s: float) -> BudgetRecord:
        """Store the budget of the cluster or of a project, and return it.

        If the cluster or project had a budget before, the new budget replaces it, and keeps the state of its governor.

        Raises:
            InputError: The order is not a valid budget.
        """
        new = StoredBudget.of(order, caller.user, now_s)
        fields = {"amount_j": new.amount_j, "period": new.period, "zone": new.zone}
        with self._lock:
            governor = self._governor(new, now_s)
            self._keep(
                self._stored | {new.project: new},
                audited(caller, now_s, "budget set", new.project or "cluster", fields),
            )
            self._governors[new.project] = governor
            self._jobless.discard(new.project)
            self._warned += governor.observe(now_s, self._meter(new.project))
            self._due_s = -math.inf
            return self._show(new, now_s)

    def trial(self, order: BudgetOrder, now_s: float) -> tuple[BudgetRecord, scheduler_events.Event]:
        """Return a budget as it would be, and the event that would tell the scheduler of it. Nothing is changed.

        Raises:
            InputError: The order is not a valid budget.
        """
        new = StoredBudget.of(order, "", now_s)
        with self._lock:
            governor = self._governor(new, now_s)
            governor.observe(now_s, self._meter(new.project))
            budgets = Budgets(self._governors | {new.project: governor}, self._signals.weighted(), self._price)
            record = new.record(governor, now_s, limited=False, emulated=self._emulated)
            return record, budgets.terms(now_s, self.idle_w)

    def drop(self, project: str, caller: Caller, now_s: float) -> BudgetRecord:
        """Delete the energy budget of a project, or of the cluster if ``project`` is "", and return it.

        Raises:
            NotFound: The project or the cluster has no budget.
        """
        with self._lock:
            if project not in self._stored:
                whose = f"project {project} has" if project else "the cluster has"
                raise NotFound(f"{whose} no energy budget")
            gone = self._show(self._stored[project], now_s)
            left = {scope: stored for scope, stored in self._stored.items() if scope != project}
            self._keep(left, audited(caller, now_s, "budget dropped", project or "cluster"))
            del self._governors[project]
            self._due_s = -math.inf
        return gone

    def show(self, now_s: float) -> Sequence[BudgetRecord]:
        """Return all energy budgets: first the budget of the cluster, then the budgets of projects by name."""
        with self._lock:
            return [self._show(self._stored[project], now_s) for project in sorted(self._stored)]

    def words(self, now_s: float) -> str:
        """Describe in plain words how much energy may be used now."""
        shown = self.show(now_s)
        if not shown:
            return "none, the energy price is fixed" if self._price else "none, only time counts"
        return "; ".join(
            f"{budget.project or 'cluster'} {budget.window}: {budget.share:.0%} of {kwh(budget.amount_j)} used,"
            f" {kwh(budget.forecast_j)} expected"
            for budget in shown
        )

    def notices(self, now_s: float) -> Sequence[str]:
        """Return messages for operators about budgets and signals, one line each."""
        with self._lock:
            young = [project for project, governor in self._governors.items() if not governor.knows_days]
        wait = [
            f"budget of {f'project {project}' if project else 'the cluster'}: no day has been replayed yet,"
            " so the budget sets no energy price; only its limit in watts applies"
            for project in young
        ]
        return [*wait, *([self._trouble] if self._trouble else []), *self._signals.notices(now_s)]

    # -- the loop -------------------------------------------------------------------------------------------------

    def start(self, now_s: float) -> scheduler_events.Event:
        """Restore the governors; return the event with the energy price and the limits (W) that they last set.

        The first plan of the scheduler must not exceed these limits.
        """
        accounts = self._store.charges.accounts(0.0, now_s, "project")[:-2]  # the last two are idle and total
        kept = self._store.get(KEEPERS, {})
        with self._lock:
            self._project_j = {account.name: account.energy_j for account in accounts}
            self._stored = {item["project"]: StoredBudget(**item) for item in self._store.get(BUDGETS, [])}
            for project, stored in self._stored.items():
                governor = Governor(stored.budget(), self.prices, idle_w=0.0 if project else self.idle_w)
                try:
                    if kept["idle_w"] != self.idle_w:
                        raise InputError("is of other GPUs", where=KEEPERS)
                    governor.restore(kept["states"][project])
                except (KeyError, TypeError, InputError):  # of another version, or for other GPUs: learn anew
                    used_j = self._used_j(project, window_at(governor.budget, now_s).start_s, now_s)
                    governor.begin(now_s, self._meter(project) - used_j)
                else:
                    self._learnt_s = kept["learnt_s"]
                self._governors[project] = governor
            self._terms = Budgets(self._governors, self._signals.weighted(), self._price).terms(now_s, self.idle_w)
            return self._terms

    def charge(self, project: str, energy_j: float) -> None:
        """Charge a project with the joules that one of its jobs has used."""
        if project:
            self._project_j[project] = self._project_j.get(project, 0.0) + energy_j

    def decided(self, limited: frozenset[str]) -> None:
        """Record the budgets that held jobs back in the scheduler's last decision.

        Args:
            limited: Names of projects, and "" for the cluster, whose limit in watts holds jobs back.
        """
        self._limited = limited
        self._limited_since |= limited

    def due(self, now_s: float) -> bool:
        """Return True if it is time to call `step`."""
        return now_s >= self._due_s or (self._replaying is not None and self._replaying.done())

    def step(self, now_s: float, scheduler: Scheduler, table: JobTable) -> None:
        """Update all budgets: read the meters, then set the energy price and the limits (W). Warnings wait for `warn`.

        Args:
            now_s: The present.
            scheduler: The scheduler, which must know the progress of all jobs up to now.
            table: Gets the events for the scheduler.

        Raises:
            StoreError: The jobs of past days cannot be read.
            OSError: No process for a replay can be started.
        """
        with self._lock:
            budgets = Budgets(self._governors, self._signals.weighted(), self._price)
            owed = remaining_energy_j(scheduler, self.prices, self._governors, now_s)
            self._learn(now_s)
            self._warned += budgets.observe(
                now_s, {scope: self._meter(scope) for scope in self._stored}, owed, self._limited_since
            )
            self._limited_since = self._limited
            self._due_s, self._unsaved = now_s + TICK_S, True
            terms = budgets.terms(now_s, self.idle_w)
            if terms != self._terms:
                table.emit(terms)
                self._terms = terms
            self._begin_replay(now_s, table)

    def warn(self, tell: Callable[[str], None]) -> None:
        """Report each warning once. Then store the governors' states, which name the reported warnings.

        Args:
            tell: Called with each warning.

        Raises:
            StoreError: The store cannot be written. The next call reports and stores the rest.
        """
        while self._warned:
            tell(str(self._warned[0]))
            self._warned.popleft()
        self._save()

    def _save(self) -> None:
        """Store the states of all governors, if they have changed."""
        with self._lock:
            if self._unsaved and self._governors:
                states = {project: governor.state() for project, governor in self._governors.items()}
                kept = {"idle_w": self.idle_w, "learnt_s": self._learnt_s, "states": states}
                self._store.put(KEEPERS, kept)
            self._unsaved = False

    def close(self) -> None:
        """End the process of a replay, if one is running."""
        if self._replaying is not None:
            self._replaying.close()
            self._replaying = None

    def _learn(self, now_s: float) -> None:
        """Let the governors learn from a replay that has ended."""
        if self._replaying is None or not self._replaying.done():
            return
        running, self._replaying = self._replaying, None
        try:
            days = running.result()
        except InputError as error:
            self._trouble, self._retry_s = str(error), now_s + RETRY_S
            return
        self._trouble = ""
        for scope in self._pupils & self._governors.keys():
            for day, share in zip(days, self._shares, strict=True):
                response = day.get(scope) or self._governors[scope].empty_day()
                if response is not None:
                    self._governors[scope].learn(response.of_whole_day(share))
        self._learned(now_s)

    def _learned(self, now_s: float) -> None:
        """Record that the governors have learned the replayed days.

        A project that had no jobs in these days waits for the next daily replay.
        """
        self._jobless |= {scope for scope in self._pupils if scope not in self._knowing()}
        if self._pupils >= self._governors.keys():
            self._learnt_s = now_s

    def _knowing(self) -> Set[str]:
        return {scope for scope, governor in self._governors.items() if governor.knows_days}

    def _begin_replay(self, now_s: float, table: JobTable) -> None:
        """Replay the last day for all governors once a day, or the last days for governors that know no day."""
        if self._respond is None or self._replaying is not None or now_s < self._retry_s or not self._governors:
            return
        daily = self._learnt_s is not None and now_s >= self._learnt_s + DAY_S
        young = self._governors.keys() - self._knowing() - self._jobless
        if not young and not daily:
            return
        self._pupils = set(self._governors) if daily else young
        past = past_days(self._store, self._learning, self._axes, now_s, 1 if daily else KNOWN_DAYS)
        table.emit(*past.news)  # before any return: nobody else reports these new classes
        if not past.days:
            self._retry_s = now_s + RETRY_S / 6
            return
        if not any(past.days):  # a day, or some, of which nothing needs to be replayed
            for scope in self._pupils:
                nothing = self._governors[scope].empty_day()
                if nothing is not None:
                    self._governors[scope].learn(nothing)
            self._learned(now_s)
            return
        self._shares, projects = past.shares, [scope for scope in self._pupils if scope]
        self._retry_s = now_s + RETRY_S / 6  # in case it cannot be started
        self._replaying = ReplayProcess(
            self._respond, self._cluster, self._axes, past.costs, past.days, self.prices, projects
        )
        self._retry_s = -math.inf

    def clock_set(self) -> None:
        """Make `step` check all budget windows again, because the machine's clock was set."""
        with self._lock:
            self._due_s = self._retry_s = -math.inf

    def _governor(self, stored: StoredBudget, now_s: float) -> Governor:
        """Return the governor of a new budget. It knows what that of the earlier budget of this project knows."""
        budget = stored.budget()
        governor = Governor(budget, self.prices, idle_w=0.0 if stored.project else self.idle_w)
        if (before := self._governors.get(stored.project)) is not None:
            governor.restore(before.state())
        used_j = self._used_j(stored.project, window_at(budget, now_s).start_s, now_s)
        governor.begin(now_s, self._meter(stored.project) - used_j)
        return governor

    def _meter(self, scope: str) -> float:
        return self._project_j.get(scope, 0.0) if scope else self._meter_j()

    def _used_j(self, project: str, since_s: float, now_s: float) -> float:
        """Return the joules charged to a project ("": to all jobs and idle GPUs) since a time, exact to the hour."""
        accounts = self._store.charges.accounts(since_s, now_s, "project")
        name = project or "total"
        found = accounts[:-2] if project else accounts[-1:]
        return next((account.energy_j for account in found if account.name == name), 0.0)

    def _keep(self, stored: dict[str, StoredBudget], what: AuditRecord) -> None:
        self._store.govern(BUDGETS, [asdict(budget) for budget in stored.values()], [what])
        self._stored = stored

    def _show(self, stored: StoredBudget, now_s: float) -> BudgetRecord:
        limited = stored.project in self._limited
        return stored.record(self._governors[stored.project], now_s, limited=limited, emulated=self._emulated)
