"""What operators set on a cluster without a cluster: caps, stages, budgets, shares and signals, in memory."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from powerflow.api.acts import said
from powerflow.api.decisions import DecisionRecord
from powerflow.api.governance import (
    AuditRecord,
    BudgetOrder,
    BudgetRecord,
    CapOrder,
    CapRecord,
    Outlook,
    ShareOrder,
    ShareRecord,
    SignalOrder,
    SignalRecord,
    audited,
)
from powerflow.api.loop_figures import CapReading, DurationCounts, LoopFigures
from powerflow.api.pages import EVERYTHING, NumberedPage, RecordFilter
from powerflow.api.records import Caller, EventRecord, JobRecord, NotFound
from powerflow.api.stages import SavingsRecord, Stage, StageOrder, StageRecord
from powerflow.energy.budget import Budget, window_at
from powerflow.energy.kinds import Kind
from powerflow.energy.signal import read_signal
from powerflow.errors import InputError

Numbered = TypeVar("Numbered", EventRecord, DecisionRecord, AuditRecord)


class FakeGovernance(ABC):
    """What operators have set, and the audit of it. Every operation raises ``broken``, if a test has set it."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self.broken: Exception | None = None
        self._lock = threading.RLock()
        self._caps: list[CapRecord] = []
        self._audit: list[AuditRecord] = []
        self._modes = {"": (Stage.ENFORCE, "")}
        self.estimated: SavingsRecord | None = SavingsRecord(now_s, 3, 120, 5000.0, 9e8, 4000.0, 7.2e8)
        self._budgets: dict[str, BudgetRecord] = {}
        self._shares: dict[str, ShareRecord] = {}
        self._signals: dict[Kind, SignalRecord] = {}

    def _open(self) -> threading.RLock:
        if self.broken is not None:
            raise self.broken
        return self._lock

    @abstractmethod
    def _known(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises:
            NotFound: There is no such job.
        """

    def caps(self) -> Sequence[CapRecord]:
        with self._open():
            return self._caps[::-1]

    def cap_csv(self, number: int) -> str:
        with self._open():
            if not any(cap.number == number for cap in self._caps):
                raise NotFound(f"there is no power cap {number}")
            return f"time_s,watts,allowed_w\n{self.now_s:.3f},400.0,300.0\n"

    def set_cap(self, order: CapOrder, caller: Caller) -> CapRecord:
        with self._open():
            if (order.watts is None) == (order.share is None):
                raise InputError("a cap needs either watts or a share", where="watts")
            start_s = self.now_s if order.start_s is None else order.start_s
            watts = order.watts or (order.share or 0.0) * 400.0
            number, times = len(self._caps) + 1, (start_s, order.end_s, order.deadline_s, order.ramp_w_per_s)
            cap = CapRecord(number, order.scope, watts, "in force", *times, caller.user, self.now_s, 400.0)
            self._caps.append(cap)
            what = audited(caller, self.now_s, "cap set", order.scope, {"watts": watts})
            text = said(what.action, what.target, what.user, what.fields)
            self._audit.append(replace(what, number=len(self._audit) + 1, text=text))
            return cap

    def lift_cap(self, scope: str, caller: Caller) -> Sequence[CapRecord]:
        with self._open():
            mine = [cap for cap in self._caps if cap.scope == scope and cap.state != "lifted"]
            if not mine:
                raise NotFound(f"there is no power cap on {scope}")
            over = [replace(cap, state="lifted", end_s=self.now_s) for cap in mine]
            self._caps = [next((o for o in over if o.number == cap.number), cap) for cap in self._caps]
            return over

    def loop_figures(self) -> LoopFigures:
        with self._open():
            caps = [CapReading(cap.scope, cap.watts, cap.power_w) for cap in self._caps if cap.state == "in force"]
            return LoopFigures(DurationCounts((0.01, 1.0, math.inf), (90, 8, 2), 7.5), {"A100": 0.64}, caps)

    def stages(self) -> Sequence[StageRecord]:
        with self._open():
            return [StageRecord(project, stage, by, self.now_s) for project, (stage, by) in self._modes.items()]

    def savings(self) -> SavingsRecord | None:
        return self.estimated

    def set_stage(self, order: StageOrder, caller: Caller) -> Sequence[StageRecord]:
        with self._open():
            named = dict.fromkeys(order.projects or [""], (order.stage, caller.user))
            self._modes = self._modes | named if order.projects else named
        return self.stages()

    def budgets(self) -> Sequence[BudgetRecord]:
        with self._open():
            return [*self._budgets.values()]

    def set_budget(self, order: BudgetOrder, caller: Caller) -> BudgetRecord:
        with self._open():
            budget = Budget(order.amount_j, order.period, order.zone, order.project)
            window = window_at(budget, self.now_s)
            self._budgets[order.project] = BudgetRecord(
                order.project,
                order.amount_j,
                order.period,
                order.zone,
                window.name,
                window.start_s,
                window.end_s,
                spent_j=0.25 * order.amount_j,
                share=0.25,
                forecast_j=0.9 * order.amount_j,
                price=0.002,
                limit_w=1234.0,
                limited=False,
                knows_days=True,
                bias=1.0,
                outlook=[Outlook(0.0, 1.2 * order.amount_j, False), Outlook(0.002, 0.9 * order.amount_j, True)],
                by=caller.user,
                set_s=self.now_s,
                emulated=True,
            )
            return self._budgets[order.project]

    def drop_budget(self, project: str, caller: Caller) -> BudgetRecord:
        with self._open():
            if project not in self._budgets:
                raise NotFound("there is no such energy budget")
            return self._budgets.pop(project)

    def shares(self) -> Sequence[ShareRecord]:
        with self._open():
            return [*self._shares.values()]

    def set_share(self, order: ShareOrder, caller: Caller) -> ShareRecord:
        with self._open():
            self._shares[order.project] = ShareRecord(order.project, order.share, caller.user, self.now_s)
            return self._shares[order.project]

    def signals(self) -> Sequence[SignalRecord]:
        with self._open():
            return [*self._signals.values()]

    def set_signal(self, order: SignalOrder, caller: Caller) -> SignalRecord:
        with self._open():
            if order.csv is not None and order.url is None and order.constant is None:
                read_signal(order.csv, order.kind, source=order.source, fallback=0.0)
            elif (order.url is None) == (order.constant is None) or order.csv is not None:
                raise InputError("a signal is a CSV, a URL or a constant", where=order.kind)
            value, source = order.constant or 0.3, order.url or order.source
            rest = 0.3, None, caller.user, self.now_s, order.currency
            record = SignalRecord(order.kind, source, value, "", 0.3, order.weight, *rest)
            self._signals[order.kind] = record
            return record

    def drop_signal(self, kind: Kind, caller: Caller) -> SignalRecord:
        with self._open():
            if kind not in self._signals:
                raise NotFound(f"there is no {kind} signal")
            return self._signals.pop(kind)

    def audit(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        only: RecordFilter = EVERYTHING,
        clocks: bool = False,
        latest: bool = False,
    ) -> NumberedPage[AuditRecord]:
        with self._open():
            if only.job_id is not None:
                self._known(only.job_id)
            found = [
                entry
                for entry in self._audit
                if entry.number > after
                and only.user in (None, entry.user)
                and (not only.kinds or entry.action in only.kinds)
                and (clocks or not entry.action.startswith("clock "))
            ]
            return feed(found[-limit:] if latest else found, after, limit)


def feed(found: list[Numbered], after: int, limit: int) -> NumberedPage[Numbered]:
    """Return one page of records."""
    items = found[:limit]
    return NumberedPage(items, items[-1].number if items else after)
