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
    ModeOrder,
    ModeRecord,
    SavingsRecord,
    SignalOrder,
    SignalRecord,
)
from powerflow.api.job_spec import JobSpec
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
    NumberedPage,
    Page,
    Top,
)
from powerflow.energy.kinds import Kind


class ClusterApi(Protocol):
    """Protocol between the REST API and a live cluster. Safe to call from any thread.

    Every method may raise `NotFound` for a thing that does not exist, `Forbidden` for what this caller may not do,
    `Refused` for what cannot be done to the thing as it is, and `Unavailable` while the store cannot be used.
    """

    def submit(self, spec: JobSpec, caller: Caller, key: str | None = None) -> tuple[JobRecord, bool]:
        """Take a job; durable when this returns. The same key of the same caller again: the same job, and False.

        Raises:
            Refused: The key was used for another spec, or the job can never run here.
        """
        ...

    def jobs(
        self,
        *,
        states: Sequence[JobState] = (),
        user: str | None = None,
        project: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[JobRecord]:
        """Jobs, newest first; ``after`` is a page's ``next``."""
        ...

    def job(self, job_id: str) -> JobDetail:
        """One job."""
        ...

    def cancel(self, job_id: str, caller: Caller) -> JobRecord:
        """Withdraw a job; what runs is ended. An ended job is refused, a cancelled one is left as it is."""
        ...

    def hold(self, job_id: str, caller: Caller) -> JobRecord:
        """Keep a job from running; one that runs gives its GPUs back first."""
        ...

    def release(self, job_id: str, caller: Caller) -> JobRecord:
        """Let a held job run again."""
        ...

    def explain(self, job_id: str) -> Explanation:
        """Why a job has what it has."""
        ...

    def log(self, job_id: str, *, rank: str | None = None, offset: int = 0, limit: int = 65536) -> LogChunk:
        """What a job wrote; ``rank`` None: its first rank. A negative offset counts from the end."""
        ...

    def events(self, *, after: int = 0, job_id: str | None = None, limit: int = 100) -> NumberedPage[EventRecord]:
        """What happened, oldest first, from number ``after`` (exclusive) on."""
        ...

    def nodes(self) -> Sequence[NodeRecord]:
        """Nodes and their GPUs."""
        ...

    def drain(self, node: str, caller: Caller, reason: str) -> NodeRecord:
        """Let a node take nobody new; what runs there is moved."""
        ...

    def resume(self, node: str, caller: Caller) -> NodeRecord:
        """Let a drained or failed node be used again."""
        ...

    def top(self) -> Top:
        """The cluster now."""
        ...

    def caps(self) -> Sequence[CapRecord]:
        """The power caps there are, newest first, with how they were kept."""
        ...

    def cap_csv(self, number: int) -> str:
        """What was drawn and allowed under a cap, as CSV."""
        ...

    def set_cap(self, order: CapOrder, caller: Caller) -> CapRecord:
        """Set a power cap; it takes the place of one of the same scope and start."""
        ...

    def lift_cap(self, scope: str, caller: Caller) -> Sequence[CapRecord]:
        """End the caps of a scope now; those to come are forgotten."""
        ...

    def modes(self) -> Sequence[ModeRecord]:
        """How far PowerFlow is let in: by everybody, then by projects that have a stage of their own."""
        ...

    def savings(self) -> SavingsRecord | None:
        """What the last replay of this cluster's own days found; None before there was one."""
        ...

    def set_mode(self, order: ModeOrder, caller: Caller) -> Sequence[ModeRecord]:
        """Set a stage; the answer is all of them. Operators only."""
        ...

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> NumberedPage[DecisionRecord]:
        """What was decided for a job, oldest first, after decision number ``after``."""
        ...

    def budgets(self) -> Sequence[BudgetRecord]:
        """Energy budgets: the cluster's, then those of projects."""
        ...

    def set_budget(self, order: BudgetOrder, caller: Caller) -> BudgetRecord:
        """Set a budget; one of the same scope is replaced. Operators only."""
        ...

    def drop_budget(self, project: str, caller: Caller) -> BudgetRecord:
        """Forget a budget; "" is the cluster's. Operators only."""
        ...

    def signals(self) -> Sequence[SignalRecord]:
        """What a joule costs and emits."""
        ...

    def set_signal(self, order: SignalOrder, caller: Caller) -> SignalRecord:
        """Set a signal; one of the same kind is replaced. Operators only."""
        ...

    def drop_signal(self, kind: Kind, caller: Caller) -> SignalRecord:
        """Forget a signal. Operators only."""
        ...

    def audit(self, *, after: int = 0, limit: int = 100) -> NumberedPage[AuditRecord]:
        """Who set what, oldest first, from number ``after`` (exclusive) on."""
        ...

    def accounts(self, *, since_s: float, until_s: float, by: str) -> Accounts:
        """Who was charged what; ``by`` is ``user``, ``project`` or ``job``."""
        ...

    def healthy(self) -> Mapping[str, Any]:
        """Whether the loop turns: ``ok``, and seconds since its last turn."""
        ...
