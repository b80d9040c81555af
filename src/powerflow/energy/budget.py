"""An amount of energy per day or month: which window a moment falls into, and how its budget stands.

Days and months are the site's own: they begin at local midnight. So a day has 23 or 25 hours when clocks change, and a
month has the days it has. Inside, a window is two moments in UTC; nothing else knows of zones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from powerflow.errors import InputError
from powerflow.units import HOUR_S, kwh

#: Shares of a budget at which its keeper is warned, each once in a window.
WARN_AT = (0.85, 0.90, 0.95)

#: Budgets of a live cluster that can be meant: 1 Wh to 1000 GWh.
LEAST_J, MOST_J = 3.6e3, 3.6e15

Period = Literal["day", "month"]


@dataclass(frozen=True, slots=True)
class Budget:
    """So much energy in every day or month.

    Attributes:
        amount_j: Joules that may be used in one window, > 0.
        period: ``day`` or ``month``, from local midnight to local midnight.
        zone: IANA name of the zone whose midnight it is (``Europe/Berlin``).
        scope: Whose budget: "" is the whole cluster, idle GPUs included; else a project, the energy of its jobs.

    Raises:
        InputError: No amount, no such period, or no such zone.
    """

    amount_j: float
    period: Period
    zone: str = "UTC"
    scope: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.amount_j < math.inf:
            raise InputError(f"{self.amount_j:g} J is no budget", where="budget", fix="give an amount such as 400kWh")
        if self.period not in ("day", "month"):
            raise InputError(f"there is no period {self.period!r}", where="budget", fix="day or month")
        _zone(self.zone)


@dataclass(frozen=True, slots=True)
class BudgetWindow:
    """One day or month: from ``start_s`` until before ``end_s``, Unix seconds; ``name`` as people write it."""

    start_s: float
    end_s: float
    name: str

    @property
    def length_s(self) -> float:
        """Seconds in it."""
        return self.end_s - self.start_s


def window_at(budget: Budget, now_s: float) -> BudgetWindow:
    """The window that a moment (Unix seconds) falls into."""
    zone = _zone(budget.zone)
    first = datetime.fromtimestamp(now_s, zone).date()
    if budget.period == "month":
        first = first.replace(day=1)
        after = (first + timedelta(days=31)).replace(day=1)
    else:
        after = first + timedelta(days=1)
    name = first.isoformat() if budget.period == "day" else first.isoformat()[:7]
    return BudgetWindow(_midnight(first, zone), _midnight(after, zone), name)


def windows(budget: Budget, from_s: float, to_s: float) -> Iterator[BudgetWindow]:
    """All windows that have a moment in [from_s, to_s), in order."""
    while from_s < to_s:
        window = window_at(budget, from_s)
        yield window
        from_s = window.end_s


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands at a moment. Energies in joules.

    Attributes:
        window: Which day or month.
        amount_j: What may be used in it.
        spent_j: What has been used so far.
        forecast_j: What will have been used at its end, as expected now.
    """

    window: BudgetWindow
    amount_j: float
    spent_j: float
    forecast_j: float

    @property
    def left_j(self) -> float:
        """What may still be used; negative when overspent."""
        return self.amount_j - self.spent_j

    @property
    def share(self) -> float:
        """What has been used, as a share of the budget."""
        return self.spent_j / self.amount_j

    @property
    def overspent_j(self) -> float:
        """What was used beyond the budget."""
        return max(0.0, -self.left_j)


@dataclass(frozen=True, slots=True)
class Warned:
    """A budget has reached a share that its keeper wants to know of.

    Attributes:
        at: The share, one of `WARN_AT`.
        now_s: When that was noticed, Unix seconds.
        standing: How it stood then.
        scope: As of `Budget`.
    """

    at: float
    now_s: float
    standing: Standing
    scope: str

    def __str__(self) -> str:
        whose = f"project {self.scope}" if self.scope else "the cluster"
        left_h = (self.standing.window.end_s - self.now_s) / HOUR_S
        return (
            f"budget of {whose} for {self.standing.window.name}: {self.standing.share:.1%} used"
            f" ({kwh(self.standing.spent_j)} of {kwh(self.standing.amount_j)}) with {left_h:.1f} h to go;"
            f" {kwh(self.standing.forecast_j)} expected at the end"
        )


def warnings_due(budget: Budget, now_s: float, standing: Standing, given: Set[float]) -> list[Warned]:
    """The warnings that this standing calls for and that were not yet given in its window, lowest first."""
    # a sum of many readings may fall a rounding error short of the share it has reached
    reached = [at for at in WARN_AT if standing.share >= at * (1.0 - 1e-12) and at not in given]
    return [Warned(at, now_s, standing, budget.scope) for at in reached]


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"there is no time zone {name!r}", where="budget", fix="give an IANA name such as Europe/Berlin"
        ) from None


def _midnight(day: date, zone: ZoneInfo) -> float:
    """When a day begins there. Where clocks skip midnight, that is the jump (read by the offset before it)."""
    return datetime.combine(day, time(), zone).timestamp()
