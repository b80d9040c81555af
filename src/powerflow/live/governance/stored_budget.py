"""Describe an energy budget as the store keeps it, and as operators see it."""

from __future__ import annotations

from dataclasses import dataclass

from powerflow.api.governance import BudgetOrder, BudgetRecord, Outlook
from powerflow.energy.budget import Budget
from powerflow.energy.governor import Governor
from powerflow.energy.kinds import Period


@dataclass(frozen=True, slots=True)
class StoredBudget:
    """A budget, as the store keeps it."""

    project: str
    amount_j: float
    period: Period
    zone: str
    by: str
    set_s: float

    @classmethod
    def of(cls, order: BudgetOrder, by: str, now_s: float) -> StoredBudget:
        """Return the budget that a user orders now."""
        return cls(order.project, order.amount_j, order.period, order.zone, by, now_s)

    def budget(self) -> Budget:
        """Return the budget as its governor needs it.

        Raises:
            InputError: It is not a valid budget.
        """
        return Budget(self.amount_j, self.period, self.zone, self.project)

    def record(self, governor: Governor, now_s: float, *, limited: bool, emulated: bool) -> BudgetRecord:
        """Return the budget as operators see it, with what its governor knows."""
        standing = governor.standing(now_s)
        outlook = [
            Outlook(price, joules, joules <= self.amount_j)
            for price, joules in zip(governor.prices, governor.outlook(now_s), strict=False)
        ]
        return BudgetRecord(
            project=self.project,
            amount_j=self.amount_j,
            period=self.period,
            zone=self.zone,
            window=standing.window.name,
            start_s=standing.window.start_s,
            end_s=standing.window.end_s,
            spent_j=standing.spent_j,
            share=standing.share,
            forecast_j=standing.forecast_j,
            price=governor.price,
            limit_w=governor.limit_w(now_s),
            limited=limited,
            knows_days=governor.knows_days,
            bias=governor.bias,
            outlook=outlook,
            by=self.by,
            set_s=self.set_s,
            emulated=emulated,
        )
