"""Answer API requests from the store (the controller's database) and from the loop's latest copies of the active jobs.

A request that changes something is written to the store; then the loop gets a command. Of all requests only `explain`
waits for an answer of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from typing_extensions import override

from powerflow.api.accounts import Account, Accounts, EndedJob
from powerflow.api.bulk_answer import JobsChanged
from powerflow.api.cluster_api import ClusterApi
from powerflow.api.decisions import DecisionRecord, Explanation
from powerflow.api.governance import (
    AuditRecord,
    BudgetOrder,
    BudgetRecord,
    CapOrder,
    CapRecord,
    DrainOrder,
    ShareOrder,
    ShareRecord,
    SignalOrder,
    SignalRecord,
    audited,
)
from powerflow.api.job_change import JobChange, JobsOrder
from powerflow.api.job_detail import JobDetail
from powerflow.api.job_spec import JobSpec
from powerflow.api.logs import JobLogs, LogChunk
from powerflow.api.loop_figures import LoopFigures
from powerflow.api.pages import ALL_JOBS, EVERYTHING, JobFilter, NumberedPage, Page, RecordFilter
from powerflow.api.predictions import PredictionsRecord
from powerflow.api.recent import ClusterSample
from powerflow.api.records import Caller, EventRecord, JobRecord, NodeRecord, NotFound, Refused, Top
from powerflow.api.shells import ShellInput, ShellOrder, ShellPiece, ShellRecord, ShellSize, ShellTaken
from powerflow.api.stages import SavingsRecord, StageOrder, StageRecord
from powerflow.energy.kinds import Kind
from powerflow.live.commands import (
    CapsChanged,
    JobSubmitted,
    NodeChanged,
    NodeDeclaredOff,
    SharesChanged,
    StagesChanged,
)
from powerflow.live.consequences import Consequences, sure_of
from powerflow.live.controller import Controller
from powerflow.live.ended import ended_jobs
from powerflow.live.explanation import explain
from powerflow.live.governance.predictions import predictions
from powerflow.live.job_changes import JobChanges
from powerflow.live.job_checks import JobChecks, refuse_external
from powerflow.live.job_logs import LogPart, job_log, job_logs
from powerflow.live.node_watch import OFF
from powerflow.live.records import Records
from powerflow.store.accounting import priced

#: Ranks that are named when a request names one that does not exist.
_NAMED = 8


def _anybody(user: str, directory: str | None) -> str:
    return ""


class ClusterService(ClusterApi):
    """Answer requests of the API about the live cluster of one controller.

    Args:
        controller: The controller; its loop may run in another thread.
        may_run: Returns why jobs of a user cannot run in a directory of this machine; "" if they can. The directory
            None stands for the directory that PowerFlow makes for each job.
        left_out: GPUs of this machine that cannot be used, and why.
        beside: Name of the scheduler that starts and ends the jobs of this cluster; "" if PowerFlow does.
        keeps_checkpoints: False if a job that names no folder for its checkpoints would leave them on one machine.
    """

    def __init__(
        self,
        controller: Controller,
        may_run: Callable[[str, str | None], str] = _anybody,
        left_out: Sequence[str] = (),
        *,
        keeps_checkpoints: bool = True,
        beside: str = "",
    ) -> None:
        self._controller, self._store = controller, controller.store
        self._checks = JobChecks(controller, may_run, keeps_checkpoints=keeps_checkpoints, beside=beside)
        self._governance, self._signals = controller.governance, controller.governance.signals
        self._records, self._consequences = Records(controller, left_out), Consequences(controller)
        self._changes = JobChanges(controller, self._records, self._checks)

    # -- jobs -----------------------------------------------------------------------------------------------------

    @override
    def submit(self, spec: JobSpec, caller: Caller, key: str | None = None) -> tuple[JobRecord, bool]:
        self._checks.check(spec, caller.user)
        if key is None or not self._store.knows_key(caller.user, key):
            self._checks.check_crowd(caller.user, spec)
        job, created = self._store.submit(spec, caller.user, self._controller.clock(), key, caller.address)
        if created:
            for job_id in self._store.array(job.id) or [job.id]:
                self._controller.tell(JobSubmitted(job_id))
        return replace(self._records.job(job), notes=self._checks.notes(spec)), created

    @override
    def update(self, job_id: str, change: JobChange, caller: Caller) -> JobRecord:
        return self._changes.update(job_id, change, caller)

    @override
    def jobs(self, only: JobFilter = ALL_JOBS, *, after: str | None = None, limit: int = 100) -> Page[JobRecord]:
        page = self._store.jobs(only, after, limit)
        return Page(self._records.jobs(page.items), page.next)

    @override
    def history(
        self, since_s: float, until_s: float, only: JobFilter = ALL_JOBS, *, after: str | None = None, limit: int = 100
    ) -> Page[EndedJob]:
        page = self._store.ended.page(since_s, until_s, only, after, limit)
        emulated = self._controller.power.emulated
        return Page(ended_jobs(page.items, self._store, self._signals.tariff(), emulated=emulated), page.next)

    @override
    def job(self, job_id: str) -> JobDetail:
        job = self._store.job(job_id)
        held = {node: list(gpus) for node, gpus in self._records.placement(job)}
        ranks = self._controller.gangs.standing(job_id)
        return JobDetail(self._records.job(job), job.spec, held, ranks, job.last_lines)

    @override
    def cancel(self, job_id: str, caller: Caller) -> JobRecord:
        return self._changes.one(job_id, "cancelled", caller)

    @override
    def hold(self, job_id: str, caller: Caller) -> JobRecord:
        return self._changes.one(job_id, "held", caller)

    @override
    def release(self, job_id: str, caller: Caller) -> JobRecord:
        return self._changes.one(job_id, "released", caller)

    @override
    def change_jobs(self, order: JobsOrder, caller: Caller) -> JobsChanged:
        return self._changes.several(order.jobs, order.to, caller)

    @override
    def explain(self, job_id: str) -> Explanation:
        job = self._store.job(job_id)
        return explain(self._controller, job, completing=self._records.job(job).completing)

    @override
    def logs(self, job_id: str) -> JobLogs:
        job = self._store.job(job_id)
        refuse_external(job)
        return job_logs(self._controller.gangs, job_id, ended=job.ended_s is not None)

    @override
    def log(
        self,
        job_id: str,
        *,
        rank: str | None = None,
        offset: int = 0,
        limit: int = 65536,
        tail: int | None = None,
        since_s: float | None = None,
    ) -> LogChunk:
        job, gangs = self._store.job(job_id), self._controller.gangs
        refuse_external(job)
        ended = job.ended_s is not None
        names = gangs.ranks(job_id)
        if rank is not None and rank not in names:
            raise NotFound(f"job {job_id} has no rank {rank}", fix=f"it has {_some(names)}" if names else "")
        return job_log(gangs, job_id, rank, LogPart(offset, limit, tail, since_s), ended=ended)

    @override
    async def open_shell(self, job_id: str, order: ShellOrder, caller: Caller) -> ShellRecord:
        refuse_external(await asyncio.to_thread(self._store.job, job_id))
        return await self._controller.shells.open(job_id, order, caller)

    @override
    async def shell_output(
        self, job_id: str, shell: str, caller: Caller, *, after: int = 0, wait_s: float = 0.0
    ) -> ShellPiece:
        return await self._controller.shells.output(job_id, shell, caller, after, wait_s)

    @override
    async def shell_input(self, job_id: str, shell: str, given: ShellInput, caller: Caller) -> ShellTaken:
        return await self._controller.shells.input(job_id, shell, given, caller)

    @override
    async def resize_shell(self, job_id: str, shell: str, size: ShellSize, caller: Caller) -> ShellRecord:
        return await self._controller.shells.resize(job_id, shell, size, caller)

    @override
    async def close_shell(self, job_id: str, shell: str, caller: Caller) -> ShellRecord:
        return await self._controller.shells.close(job_id, shell, caller)

    # -- the cluster ----------------------------------------------------------------------------------------------

    @override
    def events(
        self, *, after: int = 0, limit: int = 100, only: RecordFilter = EVERYTHING, latest: bool = False
    ) -> NumberedPage[EventRecord]:
        if only.job_id is not None:
            self._store.job(only.job_id)
        return self._store.events(after, limit, only=only, latest=latest)

    @override
    def nodes(self) -> Sequence[NodeRecord]:
        return [self._records.node(name) for name in self._controller.power.node_names()]

    @override
    def drain(self, node: str, order: DrainOrder, caller: Caller) -> NodeRecord:
        self._check_node(node)
        self._checks.check_may_move()
        sure_of(order.sure, partial(self._consequences.of_drain, node))
        return self._set_node(node, caller, "drained", order.reason)

    @override
    def resume(self, node: str, caller: Caller) -> NodeRecord:
        return self._set_node(node, caller, "up", "")

    @override
    def declare_off(self, node: str, caller: Caller, reason: str) -> NodeRecord:
        self._check_node(node)
        if self._controller.nodes.answers(node):
            raise Refused(f"node {node} answers, so it is not off", fix=f"powerflow node drain {node}")
        now_s = self._controller.clock()
        off = dict(self._store.get(OFF) or {}) | {node: now_s}
        self._store.govern(OFF, off, [audited(caller, now_s, "node declare-off", node, {"reason": reason})])
        self._controller.tell(NodeDeclaredOff(node))
        return self._records.node(node)

    @override
    def top(self) -> Top:
        return self._records.top()

    @override
    def caps(self) -> Sequence[CapRecord]:
        return self._governance.caps.show(self._controller.clock())

    @override
    def cap_csv(self, number: int) -> str:
        return self._governance.caps.csv(number)

    @override
    def set_cap(self, order: CapOrder, caller: Caller) -> CapRecord:
        if not self._governance.stages.anybody():
            what = "no jobs are managed, so a power cap could not be kept"
            raise Refused(what, fix="first run powerflow mode enforce")
        sure_of(order.sure, partial(self._consequences.of_cap, order))
        record = self._governance.caps.set(order, caller, self._controller.clock())
        self._controller.tell(CapsChanged())
        return record

    @override
    def lift_cap(self, scope: str, caller: Caller) -> Sequence[CapRecord]:
        records = self._governance.caps.lift(scope, caller, self._controller.clock())
        self._controller.tell(CapsChanged())
        return records

    @override
    def stages(self) -> Sequence[StageRecord]:
        return self._governance.stages.show(self._controller.clock())

    @override
    def savings(self) -> SavingsRecord | None:
        return self._governance.savings.show()

    @override
    def set_stage(self, order: StageOrder, caller: Caller) -> Sequence[StageRecord]:
        sure_of(order.sure, partial(self._consequences.of_stage, order))
        self._governance.stages.set(order, caller, self._controller.clock())
        self._controller.tell(StagesChanged())  # before anything else can go wrong
        return self.stages()

    @override
    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> NumberedPage[DecisionRecord]:
        self._store.job(job_id)
        return self._store.decisions.of_job(job_id, after, limit)

    @override
    def budgets(self) -> Sequence[BudgetRecord]:
        return self._governance.budgets.show(self._controller.clock())

    @override
    def set_budget(self, order: BudgetOrder, caller: Caller) -> BudgetRecord:
        sure_of(order.sure, partial(self._consequences.of_budget, order))
        record = self._governance.budgets.set(order, caller, self._controller.clock())
        self._controller.ring()
        return record

    @override
    def drop_budget(self, project: str, caller: Caller) -> BudgetRecord:
        record = self._governance.budgets.drop(project, caller, self._controller.clock())
        self._controller.ring()
        return record

    @override
    def shares(self) -> Sequence[ShareRecord]:
        return self._governance.shares.show()

    @override
    def set_share(self, order: ShareOrder, caller: Caller) -> ShareRecord:
        record = self._governance.shares.set(order, caller, self._controller.clock())
        self._controller.tell(SharesChanged())
        return record

    @override
    def signals(self) -> Sequence[SignalRecord]:
        return self._signals.show(self._controller.clock())

    @override
    def set_signal(self, order: SignalOrder, caller: Caller) -> SignalRecord:
        return self._signals.set(order, caller, self._controller.clock())

    @override
    def drop_signal(self, kind: Kind, caller: Caller) -> SignalRecord:
        return self._signals.drop(kind, caller, self._controller.clock())

    @override
    def audit(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        only: RecordFilter = EVERYTHING,
        clocks: bool = False,
        latest: bool = False,
    ) -> NumberedPage[AuditRecord]:
        if only.job_id is not None:
            self._store.job(only.job_id)
        return self._store.audit(after, limit, only=only, clocks=clocks, latest=latest)

    @override
    def recent(self, *, after_s: float = 0.0) -> Sequence[ClusterSample]:
        return self._controller.recent.after(after_s)

    @override
    def accounts(self, *, since_s: float, until_s: float, by: str) -> Accounts:
        items: Sequence[Account] = self._store.charges.accounts(since_s, until_s, by)
        notes: Sequence[str] = ()
        shares = self._governance.shares
        if by == "project" and shares.show():  # the last two are idle and total
            items = [*(replace(item, fair_share=shares.of(item.name)) for item in items[:-2]), *items[-2:]]
        if signals := self._signals.signals():
            items, notes = priced(items, self._store.charges.hourly(since_s, until_s, by), signals)
        tariff = self._signals.tariff()
        return Accounts(since_s, until_s, by, items, notes, tariff.currency if tariff else "")

    @override
    def predictions(
        self, *, since_s: float, until_s: float, project: str | None = None, user: str | None = None
    ) -> PredictionsRecord:
        projects = None if project is None else [project]
        outcomes = self._store.decisions.outcomes(since_s, projects, until_s=until_s, user=user)
        return predictions(outcomes, since_s, until_s)

    @override
    def healthy(self) -> Mapping[str, Any]:
        since_s = self._controller.clock() - self._controller.turned_s
        return {"ok": since_s < self._controller.settings.lease_s / 3, "since_turn_s": since_s}

    @override
    def loop_figures(self) -> LoopFigures:
        step = self._controller.governance_step
        return LoopFigures(self._controller.turn_times.counted, step.gpu_prices, step.cap_readings)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _set_node(self, node: str, caller: Caller, state: str, reason: str) -> NodeRecord:
        self._check_node(node)
        self._store.set_node(node, state, reason, self._controller.clock(), caller.user, caller.address)
        self._controller.tell(NodeChanged(node, drained=state == "drained"))
        return self._records.node(node)

    def _check_node(self, node: str) -> None:
        if node not in self._controller.power.node_names():
            raise NotFound(f"there is no node {node}", fix=f"nodes: {_some(self._controller.power.node_names())}")


def _some(names: Sequence[str]) -> str:
    """Return as many of the names as fit into a line, joined by commas."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
