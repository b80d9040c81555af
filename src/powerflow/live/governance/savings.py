"""Estimate daily what PowerFlow would have saved on the last days, as long as some projects are not managed.

The simulator replays these days twice with the believed costs: once as the jobs' owners asked, and once with the policy
and all its rules. The result comes from a model, so it is always shown as an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict

from powerflow.api.stages import SavingsRecord, Stage
from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.table import Axes
from powerflow.errors import InputError
from powerflow.live.governance.past_days import past_days
from powerflow.live.governance.replay_process import Compare, ReplayProcess
from powerflow.live.governance.stages import Stages
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.job_table import JobTable
from powerflow.store.store import Store
from powerflow.units import DAY_S

#: Setting in the store: the last estimate.
SAVINGS = "savings"
#: Most days that are replayed.
DAYS = 7
#: Wait after a replay that failed or had no jobs, seconds.
RETRY_S = 600.0


class SavingsEstimate:
    """Estimate how much PowerFlow would save on one cluster.

    Any thread may call `show` and read `trouble`; only the controller's loop may call the rest.

    Args:
        stages: Stages of projects. An estimate is made while a project is in stage replay or shadow.
        compare: Function that replays past days; with None, no estimate is made.
        price: Returns the present λ_E, seconds per joule.
    """

    def __init__(
        self,
        store: Store,
        cluster: ClusterSpec,
        axes: Mapping[str, Axes],
        learning: CostLearning,
        stages: Stages,
        compare: Compare | None,
        price: Callable[[], float],
    ) -> None:
        self._store, self._cluster, self._axes, self._learning = store, cluster, axes, learning
        self._stages, self._compare, self._price = stages, compare, price
        self._due_s = -math.inf
        self._about = (0, 0)  # days and jobs of the replay under way
        self._replaying: ReplayProcess[tuple[float, float, float, float]] | None = None
        self.trouble = ""

    def show(self) -> SavingsRecord | None:
        """Return the last estimate of the savings; None if no estimate was made yet."""
        kept = self._store.get(SAVINGS)
        return None if kept is None else SavingsRecord(**kept)

    def start(self) -> None:
        """Read the time of the next estimate from the store."""
        last = self.show()
        self._due_s = -math.inf if last is None else last.time_s + DAY_S

    def clock_set(self, by_s: float) -> None:
        """Move the time of the next estimate by ``by_s`` seconds, because the machine's clock was set by this much."""
        self._due_s += by_s

    def step(self, now_s: float, table: JobTable) -> None:
        """Store the result of a replay that has ended, or start a replay that is due.

        Args:
            now_s: The present.
            table: Gets the events for the scheduler.

        Raises:
            StoreError: The result cannot be stored, or the jobs of past days cannot be read.
            OSError: No process for a replay can be started.
        """
        if self._replaying is not None:
            if self._replaying.done():
                self._take(self._replaying, now_s)
            return
        wanted = self._stages.has(Stage.REPLAY) or self._stages.has(Stage.SHADOW)
        if self._compare is None or not wanted or now_s < self._due_s:
            return
        past = past_days(self._store, self._learning, self._axes, now_s, DAYS)
        table.emit(*past.news)  # before any return: nobody else reports these new classes
        days = [jobs for jobs in past.days if jobs]
        self._due_s = now_s + RETRY_S
        if days:
            self._about = len(days), sum(map(len, days))
            self._replaying = ReplayProcess(self._compare, self._cluster, self._axes, past.costs, days, self._price())

    def close(self) -> None:
        """End the process of a replay, if one is running."""
        if self._replaying is not None:
            self._replaying.close()
            self._replaying = None

    def _take(self, replaying: ReplayProcess[tuple[float, float, float, float]], now_s: float) -> None:
        self._replaying = None
        try:
            asked_s, asked_j, acted_s, acted_j = replaying.result()
        except InputError as error:
            self.trouble = str(error)
            return
        days, jobs = self._about
        self._store.put(SAVINGS, asdict(SavingsRecord(now_s, days, jobs, asked_s, asked_j, acted_s, acted_j)))
        self.trouble, self._due_s = "", now_s + DAY_S
