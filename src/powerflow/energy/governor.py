"""Keeps an energy budget by setting the price of energy, λ_E.

The price comes from what recent days would have cost at each price (`powerflow.energy.response`), scaled by how the
meter and that forecast compared so far. What has gone wrong is made good over all that is left of the window: never
over minutes, since to chase a target of power costs up to 19 % of mean completion time (design §7). What a price cannot
do, because there is more work than the budget can pay at any price, a limit in watts does, late in the window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from powerflow.energy.budget import Budget, BudgetWindow, Standing, Warned, warnings_due, window_at
from powerflow.energy.response import Response, between, check_prices, falling, price_for
from powerflow.errors import InputError
from powerflow.units import DAY_S, HOUR_S

#: Shortest time over which a difference between plan and meter is made good: what is left of the window, or this.
HORIZON_S = HOUR_S

#: Share of a budget that is not planned with: readings and decisions are minutes apart.
RESERVE = 0.004

#: Weight of the last day in the mean over days.
NEWEST = 0.15

#: No more power than would use up what is left of a budget in so long, or in what is left of the window.
STRETCH_S = 2 * HOUR_S

#: Over less time than this, the meter is not compared with the forecast.
COMPARED_S = 6 * HOUR_S

#: The meter over the forecast is believed to lie in here.
LEAST_BIAS, MOST_BIAS = 0.5, 2.0


@dataclass(slots=True)
class _Seen:
    """All that a governor remembers. Energies in joules, those of lists by price."""

    prices: list[float] = field(default_factory=list)
    window: str = ""
    window_meter: float = 0.0  # the meter when the window began
    now_s: float | None = None
    meter: float = 0.0
    warned: list[float] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)  # mean over the days learnt, above idle, per day
    full_w: list[float] = field(default_factory=list)  # the same of the watts above idle while no GPU is free
    under_way: list[float] = field(default_factory=list)  # and of what jobs that are there usually need
    owed: list[float] = field(default_factory=list)  # what jobs that are there still need
    price: float = 0.0
    # since the last day was learnt: when, the meter, what was owed, ∫ price dt
    day_s: float = 0.0
    day_meter: float = 0.0
    day_owed: list[float] = field(default_factory=list)
    day_price_s: float = 0.0
    day_limited: bool = False
    # fading sums over the days: above idle by the meter, and as forecast at the prices that held
    metered: float = 0.0
    forecast: float = 0.0


class Governor:
    """Sets the price of energy so that a budget is kept.

    Tell it every few minutes what the meter says (`observe`), and daily what the last day would have cost at each price
    (`learn`); then ask for the price, and for the limit in watts.

    Args:
        budget: What may be used.
        prices: λ_E at which days are replayed, seconds per joule, ascending, the first 0; it chooses between them.
        idle_w: Watts that are drawn whatever runs: for the cluster, all its GPUs idle; for a project, 0.

    Raises:
        InputError: Prices or watts that cannot be.
    """

    def __init__(self, budget: Budget, prices: Sequence[float], *, idle_w: float = 0.0) -> None:
        check_prices(prices)
        if not 0 <= idle_w < math.inf:
            raise InputError(f"idle draw is {idle_w:g} W", where="budget", fix="give watts ≥ 0")
        self.budget = budget
        self.prices = tuple(prices)
        self.idle_w = idle_w
        self._seen = _Seen(list(prices))

    # -- what it is told ----------------------------------------------------------------------------------------

    def begin(self, now_s: float, meter_then_j: float) -> None:
        """Say what the meter read when the present window began: before the first `observe`, or for another budget.

        Without it, a governor that begins within a window counts from its first reading.
        """
        self._seen.window = window_at(self.budget, now_s).name
        self._seen.window_meter, self._seen.warned = meter_then_j, []

    def observe(
        self, now_s: float, meter_j: float, owed_j: Sequence[float] | None = None, limited: bool = False
    ) -> list[Warned]:
        """Take note of the meter, and set the price anew.

        Args:
            now_s: The present, Unix seconds; not earlier than the time before.
            meter_j: Joules on a meter that only grows: the cluster's, or that of the project's jobs.
            owed_j: By price, energy above idle that the jobs now there still need
                (`powerflow.energy.remaining_energy`); None: nobody knows.
            limited: Whether `limit_w` has held back jobs since the time before.

        Returns:
            Warnings that are due now.
        """
        seen, window = self._seen, window_at(self.budget, now_s)
        if window.name != seen.window:
            seen.window, seen.window_meter, seen.warned = (
                window.name,
                self._meter_at(window.start_s, now_s, meter_j),
                [],
            )
        if seen.now_s is None:
            seen.day_s, seen.day_meter = now_s, meter_j
        else:
            seen.day_price_s += seen.price * (now_s - seen.now_s)
            seen.day_limited = seen.day_limited or limited
        seen.now_s, seen.meter = now_s, meter_j
        if owed_j is not None:
            seen.owed = list(owed_j)
            seen.day_owed = seen.day_owed or list(owed_j)
        seen.price = self._set_price(window, now_s)
        due = warnings_due(self.budget, now_s, self.standing(now_s), set(seen.warned))
        seen.warned += [warned.at for warned in due]
        return due

    def learn(self, day: Response) -> None:
        """Take note of what the arrivals of one more day would cost at each price.

        Before the first `observe` it may be called for several past days, oldest first.

        Raises:
            InputError: It was replayed at other prices.
        """
        if day.prices != self.prices:
            raise InputError("the day was replayed at other prices than the governor's", where="budget")
        seen = self._seen
        lasted_s = 0.0 if seen.now_s is None else seen.now_s - seen.day_s
        if lasted_s > 0:
            price = seen.day_price_s / lasted_s
            arrived = day.at(price) * lasted_s / DAY_S
            forecast = arrived + self._at(seen.day_owed, price) - self._at(seen.owed, price)
            metered = seen.meter - seen.day_meter - self.idle_w * lasted_s
            # what was used under a limit was not decided by the price, and of a short while chance decides
            if not seen.day_limited and lasted_s >= COMPARED_S:
                seen.metered = (1 - NEWEST) * seen.metered + NEWEST * metered
                seen.forecast = (1 - NEWEST) * seen.forecast + NEWEST * forecast
            seen.day_s, seen.day_meter, seen.day_price_s = seen.day_s + lasted_s, seen.meter, 0.0
            seen.day_limited = False
            seen.day_owed = list(seen.owed)
        seen.curve = _mixed(seen.curve, day.joules)
        seen.full_w = _mixed(seen.full_w, day.full_w)
        seen.under_way = _mixed(seen.under_way, day.under_way_j)

    # -- what it answers ----------------------------------------------------------------------------------------

    @property
    def price(self) -> float:
        """λ_E, seconds per joule, until the next `observe`. 0 before any day has been learnt."""
        return self._seen.price

    def limit_w(self, now_s: float) -> float:
        """Watts, idle draw included, that may be drawn until the next `observe`.

        Power at which what is left of the budget would be gone within two hours, or before the window ends. What would
        need more than that has to wait for budget.
        """
        window = window_at(self.budget, now_s)
        left_s = max(window.end_s - now_s, 60.0)
        free_j = self.budget.amount_j * (1 - RESERVE) - self._spent_j(window) - self.idle_w * left_s
        return self.idle_w + max(0.0, free_j) / min(left_s, STRETCH_S)

    def standing(self, now_s: float) -> Standing:
        """How the budget stands, and what is expected at the end of its window at the present price."""
        window = window_at(self.budget, now_s)
        spent_j = self._spent_j(window)
        left_s = window.end_s - now_s
        expected_j = spent_j + self.idle_w * left_s + self._at(self._need(left_s), self.price)
        # what would exceed the budget waits; idle GPUs draw in any case
        most_j = max(self.budget.amount_j, spent_j + self.idle_w * left_s)
        return Standing(window, self.budget.amount_j, spent_j, min(expected_j, most_j))

    def outlook(self, now_s: float) -> list[float]:
        """By price, joules expected to be used by the end of the present window; empty before a day has been learnt."""
        window = window_at(self.budget, now_s)
        left_s = window.end_s - now_s
        fixed_j = self._spent_j(window) + self.idle_w * left_s
        return [fixed_j + need for need in self._need(left_s)]

    @property
    def knows_days(self) -> bool:
        """Whether it has learnt what days cost: before that it sets no price, and only the limit keeps the budget."""
        return bool(self._seen.curve)

    def empty_day(self) -> Response | None:
        """A day without arrivals, to `learn`; None before there was one with any."""
        nothing = (0.0,) * len(self.prices)
        return Response(self.prices, nothing, tuple(self._seen.full_w), nothing) if self.knows_days else None

    @property
    def bias(self) -> float:
        """The meter over the forecast, above idle, over the days learnt."""
        seen = self._seen
        if seen.metered <= 0 or seen.forecast <= 0:
            return 1.0
        return min(max(seen.metered / seen.forecast, LEAST_BIAS), MOST_BIAS)

    # -- what is kept -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that it remembers, as plain JSON values."""
        return asdict(self._seen)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`.

        Raises:
            InputError: It is none, or of other prices.
        """
        if set(state) != {f.name for f in fields(_Seen)}:
            raise InputError("is not the state of a governor", where="budget", exit_code=1)
        seen = _Seen(**state)
        if tuple(seen.prices) != self.prices:
            raise InputError("is the state of a governor with other prices", where="budget", exit_code=1)
        self._seen = seen

    # -- how ----------------------------------------------------------------------------------------------------

    def _set_price(self, window: BudgetWindow, now_s: float) -> float:
        left_s = window.end_s - now_s
        beyond_s = max(0.0, HORIZON_S - left_s)
        free_j = self.budget.amount_j * (1 - RESERVE) - self._spent_j(window) - self.idle_w * left_s
        free_j += beyond_s * (self.budget.amount_j * (1 - RESERVE) / window.length_s - self.idle_w)
        need = self._need(left_s + beyond_s)
        return price_for(self.prices, need, free_j) if need else 0.0

    def _need(self, horizon_s: float) -> list[float]:
        """By price, joules above idle that will be used in so long; nothing where no day has been learnt."""
        seen, days = self._seen, horizon_s / DAY_S
        if not seen.curve:
            return []
        owed_j = seen.owed or seen.under_way
        behind = [o - usual for o, usual in zip(owed_j, seen.under_way, strict=True)]
        work = [self.bias * max(0.0, days * c + b) for c, b in zip(seen.curve, behind, strict=True)]
        # more than all GPUs draw cannot be used, however much work there is
        return falling([min(w, full * horizon_s) for w, full in zip(work, seen.full_w, strict=True)])

    def _at(self, values: Sequence[float], price: float) -> float:
        return between(self.prices, values, price) if values else 0.0

    def _spent_j(self, window: BudgetWindow) -> float:
        """What was used in a window by the last reading; nothing yet if that was in another."""
        return self._seen.meter - self._seen.window_meter if window.name == self._seen.window else 0.0

    def _meter_at(self, moment_s: float, now_s: float, meter_j: float) -> float:
        """The meter at a moment since the last reading, between the two; at the first reading, that."""
        seen = self._seen
        if seen.now_s is None or now_s <= seen.now_s:
            return meter_j
        share = min(max((moment_s - seen.now_s) / (now_s - seen.now_s), 0.0), 1.0)
        return seen.meter + share * (meter_j - seen.meter)


def prices_by_project(governors: Mapping[str, Governor]) -> dict[str, float]:
    """λ_E that each project's own budget adds for its jobs, seconds per joule; projects without one add nothing.

    ``governors`` are by project; the cluster's own ("") sets the price for all and is left out here.
    """
    return {project: governor.price for project, governor in governors.items() if project}


def _mixed(old: Sequence[float], new: Sequence[float]) -> list[float]:
    if not old or not new:
        return list(old or new)
    return [(1 - NEWEST) * o + NEWEST * n for o, n in zip(old, new, strict=True)]
