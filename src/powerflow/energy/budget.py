"""Define an energy budget per day or month, find its present window (day or month), and warn when it is nearly used.

Days and months begin at local midnight. So a day has 23 or 25 hours when clocks change. All other code sees a window
only as two moments in UTC.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from powerflow.energy.kinds import Period
from powerflow.errors import InputError
from powerflow.units import HOUR_S, kwh

#: Used shares of a budget that cause a warning, each once in a window.
WARN_AT = (0.85, 0.90, 0.95)


@dataclass(frozen=True, slots=True)
class Budget:
    """Amount of energy that the cluster or a project may use in each day or month.

    Attributes:
        amount_j: Joules that may be used in one window, > 0.
        period: ``day`` or ``month``, from local midnight to local midnight.
        zone: IANA name of the time zone (``Europe/Berlin``).
        scope: "" for the cluster, with its idle GPUs; otherwise the name of a project, for the energy of its jobs.

    Raises:
        InputError: The amount is not positive, or the period or zone is unknown.
    """

    amount_j: float
    period: Period
    zone: str = "UTC"
    scope: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.amount_j < math.inf:
            raise InputError(
                f"{self.amount_j:g} J is not a valid budget", where="budget", fix="give an amount such as 400kWh"
            )
        if self.period not in ("day", "month"):
            raise InputError(f"unknown period {self.period!r}", where="budget", fix="give day or month")
        _zone(self.zone)


@dataclass(frozen=True, slots=True)
class BudgetWindow:
    """One day or month of a budget.

    Attributes:
        start_s: First moment of the window, Unix seconds.
        end_s: First moment after the window, Unix seconds.
        name: The day or month as text: ``2026-11-23`` or ``2026-11``.
    """

    start_s: float
    end_s: float
    name: str

    @property
    def length_s(self) -> float:
        """Length of the window in seconds."""
        return self.end_s - self.start_s


def window_at(budget: Budget, now_s: float) -> BudgetWindow:
    """Return the day or month of a budget that contains a moment (Unix seconds)."""
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
    """Yield all days or months of a budget that overlap the time [from_s, to_s), in order."""
    while from_s < to_s:
        window = window_at(budget, from_s)
        yield window
        from_s = window.end_s


@dataclass(frozen=True, slots=True)
class Standing:
    """State of a budget at one moment. Energies are in joules.

    Attributes:
        window: The current day or month.
        amount_j: Energy that may be used in the window.
        spent_j: Energy used in the window so far.
        forecast_j: Energy expected to be used by the end of the window.
    """

    window: BudgetWindow
    amount_j: float
    spent_j: float
    forecast_j: float

    @property
    def share(self) -> float:
        """Energy used so far, as a share of the budget."""
        return self.spent_j / self.amount_j


@dataclass(frozen=True, slots=True)
class Warned:
    """Warning that the used share of a budget has reached one of the thresholds `WARN_AT`.

    Attributes:
        at: The threshold, as a share of the budget.
        now_s: Time of the warning, Unix seconds.
        standing: State of the budget at that time.
        scope: "" for the cluster, otherwise a project, as in `Budget`.
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
    """Return the warnings about a budget that are due now, lowest threshold first.

    ``given`` has the thresholds of the warnings that were already given in this window.
    """
    # the sum of many readings may be too small by a rounding error
    reached = [at for at in WARN_AT if standing.share >= at * (1.0 - 1e-12) and at not in given]
    return [Warned(at, now_s, standing, budget.scope) for at in reached]


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"unknown time zone {name!r}", where="budget", fix="give an IANA name such as Europe/Berlin"
        ) from None


def _midnight(day: date, zone: ZoneInfo) -> float:
    """Return when a day begins in a time zone. If a change of clocks skips midnight, it is the moment of the change."""
    return datetime.combine(day, time(), zone).timestamp()
