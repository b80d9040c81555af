"""Define the routes by which operators set stages, budgets, shares, signals and power caps, and read the audit."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter

from powerflow.api import operations as ops
from powerflow.api.governance import (
    AuditRecord,
    BudgetOrder,
    BudgetRecord,
    BudgetScope,
    CapCsv,
    CapOrder,
    CapRecord,
    CapScope,
    ShareOrder,
    ShareRecord,
    SignalKind,
    SignalOrder,
    SignalRecord,
)
from powerflow.api.pages import Items, NumberedPage
from powerflow.api.stages import StageList, StageOrder
from powerflow.service.routes import FromCaller, FromCluster, serves
from powerflow.service.schemas import AfterNumber, CapNumber, Clocks, Latest, Limit, Only


@cache
def governing() -> APIRouter:
    """Return the routes for stages, budgets, shares, signals, power caps and the audit."""
    router = APIRouter()
    for add in (_add_stages, _add_budgets, _add_shares, _add_signals, _add_caps, _add_audit):
        add(router)
    return router


def _add_stages(router: APIRouter) -> None:
    @serves(router, ops.STAGES)
    def stages(cluster: FromCluster) -> StageList:
        return StageList(cluster.stages(), cluster.savings())

    @serves(router, ops.SET_STAGE, body=True, asks_sure=True)
    def set_stage(cluster: FromCluster, order: StageOrder, caller: FromCaller) -> StageList:
        return StageList(cluster.set_stage(order, caller), cluster.savings())


def _add_budgets(router: APIRouter) -> None:
    @serves(router, ops.BUDGETS)
    def budgets(cluster: FromCluster) -> Items[BudgetRecord]:
        return Items(cluster.budgets())

    @serves(router, ops.SET_BUDGET, body=True, asks_sure=True)
    def set_budget(cluster: FromCluster, order: BudgetOrder, caller: FromCaller) -> BudgetRecord:
        return cluster.set_budget(order, caller)

    @serves(router, ops.DROP_BUDGET, body=True, looks_up=True)
    def drop_budget(cluster: FromCluster, body: BudgetScope, caller: FromCaller) -> BudgetRecord:
        return cluster.drop_budget(body.project, caller)


def _add_shares(router: APIRouter) -> None:
    @serves(router, ops.SHARES)
    def shares(cluster: FromCluster) -> Items[ShareRecord]:
        return Items(cluster.shares())

    @serves(router, ops.SET_SHARE, body=True)
    def set_share(cluster: FromCluster, order: ShareOrder, caller: FromCaller) -> ShareRecord:
        return cluster.set_share(order, caller)


def _add_signals(router: APIRouter) -> None:
    @serves(router, ops.SIGNALS)
    def signals(cluster: FromCluster) -> Items[SignalRecord]:
        return Items(cluster.signals())

    @serves(router, ops.SET_SIGNAL, body=True)
    def set_signal(cluster: FromCluster, order: SignalOrder, caller: FromCaller) -> SignalRecord:
        return cluster.set_signal(order, caller)

    @serves(router, ops.DROP_SIGNAL, body=True, looks_up=True)
    def drop_signal(cluster: FromCluster, body: SignalKind, caller: FromCaller) -> SignalRecord:
        return cluster.drop_signal(body.kind, caller)


def _add_caps(router: APIRouter) -> None:
    @serves(router, ops.CAPS)
    def caps(cluster: FromCluster) -> Items[CapRecord]:
        return Items(cluster.caps())

    @serves(router, ops.SET_CAP, body=True, asks_sure=True)
    def set_cap(cluster: FromCluster, order: CapOrder, caller: FromCaller) -> CapRecord:
        return cluster.set_cap(order, caller)

    @serves(router, ops.LIFT_CAP, body=True, looks_up=True)
    def lift_cap(cluster: FromCluster, body: CapScope, caller: FromCaller) -> Items[CapRecord]:
        return Items(cluster.lift_cap(body.scope, caller))

    @serves(router, ops.CAP_RECORD)
    def cap_csv(cluster: FromCluster, number: CapNumber) -> CapCsv:
        return CapCsv(number, cluster.cap_csv(number))


def _add_audit(router: APIRouter) -> None:
    @serves(router, ops.AUDIT, looks_up=True)
    def audit(
        cluster: FromCluster,
        only: Only,
        after: AfterNumber = 0,
        limit: Limit = 100,
        clocks: Clocks = False,
        latest: Latest = False,
    ) -> NumberedPage[AuditRecord]:
        return cluster.audit(after=after, limit=limit, only=only, clocks=clocks, latest=latest)
