"""The part of the API in which operators set things: budgets, power caps, signals; and the audit of who did."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.governance import (
    BudgetOrder,
    BudgetRecord,
    CapOrder,
    CapRecord,
    ModeOrder,
    SignalOrder,
    SignalRecord,
)
from powerflow.api.records import Caller, Role
from powerflow.service import schemas
from powerflow.service.operations import at_least, says


def governing(cluster: ClusterApi) -> APIRouter:
    """The operations."""
    router = APIRouter()

    @router.get("/modes", **says(schemas.ModeList, 200))
    def modes() -> schemas.ModeList:
        """How far PowerFlow is let in, and what came of jobs since: of everybody, then of projects with their own."""
        return schemas.ModeList(items=list(cluster.modes()), replayed=cluster.savings())

    @router.post("/modes", **says(schemas.ModeList, 200, 400, 403, 409, 413, 422, 503))
    def set_mode(order: schemas.ModeBody, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> schemas.ModeList:
        """Set the stage of some projects; with none named, of everybody."""
        items = list(cluster.set_mode(ModeOrder(order.stage, order.projects), caller))
        return schemas.ModeList(items=items, replayed=cluster.savings())

    @router.get("/budgets", **says(schemas.BudgetList, 200))
    def budgets() -> schemas.BudgetList:
        """Energy budgets, and how each stands: the cluster's, then those of projects."""
        return schemas.BudgetList(items=list(cluster.budgets()))

    @router.post("/budgets", status_code=201, **says(BudgetRecord, 201, 400, 403, 409, 413, 422, 503))
    def set_budget(order: schemas.BudgetBody, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> BudgetRecord:
        """Set a budget: joules per day or month, of the cluster or a project. One of the same scope is replaced."""
        return cluster.set_budget(BudgetOrder(**order.model_dump()), caller)

    @router.post("/budgets/drop", **says(BudgetRecord, 200, 400, 403, 404, 409, 413, 422, 503))
    def drop_budget(body: schemas.WhoseBudget, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> BudgetRecord:
        """Forget a budget."""
        return cluster.drop_budget(body.project, caller)

    @router.get("/signals", **says(schemas.SignalList, 200))
    def signals() -> schemas.SignalList:
        """What a joule costs and emits, and what is used where the series says nothing."""
        return schemas.SignalList(items=list(cluster.signals()))

    @router.post("/signals", status_code=201, **says(SignalRecord, 201, 400, 403, 409, 413, 422, 503))
    def set_signal(order: schemas.SignalBody, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> SignalRecord:
        """Set a signal: just one of ``csv``, ``url`` and ``constant``. One of the same kind is replaced."""
        return cluster.set_signal(SignalOrder(**order.model_dump()), caller)

    @router.post("/signals/drop", **says(SignalRecord, 200, 400, 403, 404, 409, 413, 422, 503))
    def drop_signal(body: schemas.WhichSignal, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> SignalRecord:
        """Forget a signal."""
        return cluster.drop_signal(body.kind, caller)

    @router.get("/caps", **says(schemas.CapList, 200))
    def caps() -> schemas.CapList:
        """Power caps, newest first, and how each was kept."""
        return schemas.CapList(items=list(cluster.caps()))

    @router.post("/caps", status_code=201, **says(CapRecord, 201, 400, 403, 409, 413, 422, 503))
    def set_cap(order: schemas.CapBody, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> CapRecord:
        """Set a power cap: ``watts``, or a ``share`` of what the scope draws now."""
        return cluster.set_cap(CapOrder(**order.model_dump()), caller)

    @router.post("/caps/lift", **says(schemas.CapList, 200, 400, 403, 404, 409, 413, 422, 503))
    def lift_cap(body: schemas.Lift, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> schemas.CapList:
        """End the caps of a scope now; those to come are forgotten."""
        return schemas.CapList(items=list(cluster.lift_cap(body.scope, caller)))

    @router.get("/caps/{number}/record", **says(schemas.CapCsv, 200, 404, 422))
    def cap_record(number: Annotated[int, Path(ge=1, le=2**31)]) -> schemas.CapCsv:
        """What was drawn and allowed under a cap, as CSV: a line for each change."""
        return schemas.CapCsv(number=number, csv=cluster.cap_csv(number))

    @router.get("/audit", **says(schemas.AuditPage, 200, 403, 422))
    def audit(
        caller: Annotated[Caller, at_least(Role.OPERATOR)],
        after: Annotated[int, Query(ge=0, le=2**62, description="Number of the last entry that is known.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> schemas.AuditPage:
        """Who set what, when, from where, oldest first. Nothing is ever taken out of it."""
        page = cluster.audit(after=after, limit=limit)
        return schemas.AuditPage(items=list(page.items), after=page.after)

    return router
