"""The protocol between the REST API and a live cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from powerflow.api.governance import (
    AuditRecord,
    BudgetOrder,
    BudgetRecord,
    CapOrder,
    CapRecord,
    SavingsRecord,
    SignalOrder,
    SignalRecord,
    StageOrder,
    StageRecord,
)
from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import NumberedPage, Page
from powerflow.api.records import (
    Accounts,
    Caller,
    DecisionRecord,
    EventRecord,
    Explanation,
    JobDetail,
    JobRecord,
    JobState,
    LogChunk,
    NodeRecord,
    Top,
)
from powerflow.energy.kinds import Kind


class ClusterApi(Protocol):
    """Protocol between the REST API and a live cluster. Safe to call from any thread.

    Whoever calls has checked that the caller's role suffices (`powerflow.api.operations`). Every method may raise
    `NotFound` for a thing that does not exist, `Forbidden` for a job of another user, `Refused` for what cannot be done
    to the thing as it is, and `Unavailable` while the store cannot be used. Until its first section, a docstring is
    the description of the operation in the OpenAPI document, unless the route has its own.
    """

    def submit(self, spec: JobSpec, caller: Caller, key: str | None = None) -> tuple[JobRecord, bool]:
        """Submit a job; it is on disk when this returns.

        Returns:
            The job, and whether it is new; with a key that this caller has used before, the same job again.

        Raises:
            Refused: The key was used for another spec, or the job can never run here.
        """

    def jobs(
        self,
        *,
        states: Sequence[JobState] = (),
        user: str | None = None,
        project: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[JobRecord]:
        """List jobs, newest first. Ask again with the answer's `next` as `after` for those that follow."""

    def job(self, job_id: str) -> JobDetail:
        """Show one job."""

    def cancel(self, job_id: str, caller: Caller) -> JobRecord:
        """Cancel a job; its processes are ended. Cancelling a cancelled job changes nothing."""

    def hold(self, job_id: str, caller: Caller) -> JobRecord:
        """Keep a job from running; a running one gives its GPUs back first."""

    def release(self, job_id: str, caller: Caller) -> JobRecord:
        """Let a held job run again."""

    def explain(self, job_id: str) -> Explanation:
        """Explain why a job has what it has, and what else it could have."""

    def log(self, job_id: str, *, rank: str | None = None, offset: int = 0, limit: int = 65536) -> LogChunk:
        """Show part of a job's log. Ask again with the answer's `offset` for what follows."""

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> NumberedPage[DecisionRecord]:
        """List what was decided for a job and what was expected of it then, oldest first."""

    def events(self, *, after: int = 0, job_id: str | None = None, limit: int = 100) -> NumberedPage[EventRecord]:
        """List what happened, oldest first. Ask again with the answer's `after` for what follows."""

    def nodes(self) -> Sequence[NodeRecord]:
        """List nodes and their GPUs."""

    def drain(self, node: str, caller: Caller, reason: str) -> NodeRecord:
        """Give a node no new jobs, and move those that run there."""

    def resume(self, node: str, caller: Caller) -> NodeRecord:
        """Use a drained or failed node again."""

    def top(self) -> Top:
        """Show the cluster now."""

    def accounts(self, *, since_s: float, until_s: float, by: str) -> Accounts:
        """Show how much energy each user, project or job (`by`) was charged in a window of time."""

    def stages(self) -> Sequence[StageRecord]:
        """List rollout stages, and how jobs did since: of all projects, then of those that have their own."""

    def savings(self) -> SavingsRecord | None:
        """Show the last replay of this cluster's own days; None before the first one."""

    def set_stage(self, order: StageOrder, caller: Caller) -> Sequence[StageRecord]:
        """Set the rollout stage of some projects or, with none named, of all; list all stages."""

    def budgets(self) -> Sequence[BudgetRecord]:
        """List energy budgets and how each stands: that of the cluster, then those of projects."""

    def set_budget(self, order: BudgetOrder, caller: Caller) -> BudgetRecord:
        """Set an energy budget of the cluster or a project, in joules per day or month. It replaces the former one."""

    def drop_budget(self, project: str, caller: Caller) -> BudgetRecord:
        """Drop the energy budget of a project or, with "", of the cluster."""

    def signals(self) -> Sequence[SignalRecord]:
        """List signals: what a kWh costs and emits, and the fallback where a series has no value."""

    def set_signal(self, order: SignalOrder, caller: Caller) -> SignalRecord:
        """Set a signal by exactly one of `csv`, `url` and `constant`. It replaces the former one of its kind."""

    def drop_signal(self, kind: Kind, caller: Caller) -> SignalRecord:
        """Drop a signal."""

    def caps(self) -> Sequence[CapRecord]:
        """List power caps, newest first, and how each was kept."""

    def cap_csv(self, number: int) -> str:
        """Show the power drawn and allowed under a cap, as CSV: a line for each change."""

    def set_cap(self, order: CapOrder, caller: Caller) -> CapRecord:
        """Set a power cap: `watts`, or a `share` of what the scope draws now. One with the same start is replaced."""

    def lift_cap(self, scope: str, caller: Caller) -> Sequence[CapRecord]:
        """End the power caps of a scope now, and forget those to come."""

    def audit(self, *, after: int = 0, limit: int = 100) -> NumberedPage[AuditRecord]:
        """List who set what, when, from where, oldest first. No entry is ever removed."""

    def healthy(self) -> Mapping[str, Any]:
        """Report whether the controller's loop turns (``ok``), and for how many seconds its last turn is over."""
