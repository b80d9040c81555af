"""How well a budget was kept over a simulation, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.governed.simulation import Tick
from powerflow.energy.budget import Budget, windows


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """One window.

    Attributes:
        name: Day or month.
        spent: Energy used, as a share of the budget.
        withheld: Whether, when it ended, energy was being withheld (by a price above 0 or the limit) while jobs waited.
    """

    name: str
    spent: float
    withheld: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """All whole windows. Energies as shares of the budget of a window.

    Attributes:
        windows: How many there are.
        worst_over: Most that was spent beyond the budget in one.
        over: How many were overspent.
        running: How many were overspent right after another that was.
        unspent_waiting: Mean left over in windows that ended while energy was withheld and jobs waited; 0 if none.
        most_unspent_waiting: The most of these.
        waiting: How many these are.
        spent: Mean over all windows.
        limited: Share of time in which the limit in watts made joules dearer than the price did.
        cut: Share of time in which it took GPUs away.
    """

    windows: int
    worst_over: float
    over: int
    running: int
    unspent_waiting: float
    most_unspent_waiting: float
    waiting: int
    spent: float
    limited: float
    cut: float


def kept(ticks: Sequence[Tick], budget: Budget, epoch_s: float, until_s: float) -> list[BudgetVerdict]:
    """Each window wholly between 0 and ``until_s`` of a simulation that began at ``epoch_s``, Unix seconds."""
    time_s = np.array([tick.now_s for tick in ticks])
    meter_j = np.array([tick.meter_j for tick in ticks])
    found = []
    for window in windows(budget, epoch_s, epoch_s + until_s):
        from_s, to_s = window.start_s - epoch_s, window.end_s - epoch_s
        if from_s < 0 or to_s > until_s:
            continue
        before_j, after_j = np.interp([from_s, to_s], time_s, meter_j)
        last = ticks[int(np.searchsorted(time_s, to_s)) - 1]
        withheld = last.waiting > 0 and (last.price > 0 or last.limited)
        found.append(BudgetVerdict(window.name, float(after_j - before_j) / budget.amount_j, withheld))
    return found


def verdict(found: Sequence[BudgetVerdict], ticks: Sequence[Tick]) -> Verdict:
    """The whole in a few numbers; ``found`` is not empty."""
    over = [window.spent > 1.0 for window in found]
    unspent = [max(0.0, 1.0 - window.spent) for window in found if window.withheld]
    return Verdict(
        windows=len(found),
        worst_over=max(0.0, max(window.spent for window in found) - 1.0),
        over=sum(over),
        running=sum(a and b for a, b in pairwise(over)),
        unspent_waiting=sum(unspent) / len(unspent) if unspent else 0.0,
        most_unspent_waiting=max(unspent, default=0.0),
        waiting=len(unspent),
        spent=sum(window.spent for window in found) / len(found),
        limited=sum(tick.limited for tick in ticks) / len(ticks),
        cut=sum(tick.cut for tick in ticks) / len(ticks),
    )
