"""Keep an energy budget by setting the price of energy, λ_E.

1. Recent days are simulated at several prices. This gives a curve: the energy that jobs need at each price
   (`powerflow.energy.response`). The curve is multiplied by the ratio of metered to predicted energy so far.
2. The price is the lowest one at which the rest of the budget is enough for the rest of the day or month. So errors are
   corrected slowly, over all the remaining time. Following a power target closely would make jobs up to 19 % slower
   (docs/budgets.md).
3. If no price is high enough, because there is too much work, a limit in watts keeps the budget. It acts late in the
   day or month.
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

#: Shortest time over which a difference between plan and meter is corrected; longer if more of the window is left.
HORIZON_S = HOUR_S

#: Share of a budget kept in reserve, because readings and decisions are minutes apart.
RESERVE = 0.004

#: Weight of the last day in the mean over days.
NEWEST = 0.15

#: The limit in watts spreads the rest of the budget over this time, or over the rest of the window if that is shorter.
STRETCH_S = 2 * HOUR_S

#: Shortest time over which the meter is compared with the forecast.
COMPARED_S = 6 * HOUR_S

#: Bounds of the ratio of meter to forecast.
LEAST_BIAS, MOST_BIAS = 0.5, 2.0


@dataclass(slots=True)
class _Seen:
    """State of a governor, saved and restored as a whole. Energies are in joules; each list has one entry per price."""

    prices: list[float] = field(default_factory=list)
    window: str = ""
    window_meter: float = 0.0  # meter at the start of the window
    now_s: float | None = None
    meter: float = 0.0
    warned: list[float] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)  # energy above idle per day, mean over the learnt days
    full_w: list[float] = field(default_factory=list)  # watts above idle while no GPU is free, mean over days
    under_way: list[float] = field(default_factory=list)  # energy that active jobs usually still need, mean over days
    owed: list[float] = field(default_factory=list)  # energy that active jobs still need now
    price: float = 0.0
    # when the last day was learnt: time, meter, and owed energy; since then ∫ price dt
    day_s: float = 0.0
    day_meter: float = 0.0
    day_owed: list[float] = field(default_factory=list)
    day_price_s: float = 0.0
    day_limited: bool = False
    # weighted sums over the days, above idle: metered energy, and its forecast at the actual prices
    metered: float = 0.0
    forecast: float = 0.0


class Governor:
    """Sets the price of energy so that a budget is kept.

    1. Call `observe` every few minutes with the meter reading.
    2. Call `learn` once a day with the energy that the last day's jobs needed at each price.
    3. Read `price` and `limit_w` at any time.

    Args:
        budget: The budget to keep.
        prices: λ_E values at which days are simulated, seconds per joule, ascending, the first 0. The governor
            interpolates between them.
        idle_w: Watts drawn without any job: for the cluster, all its GPUs idle; for a project, 0.

    Raises:
        InputError: The prices or watts are impossible.
    """

    def __init__(self, budget: Budget, prices: Sequence[float], *, idle_w: float = 0.0) -> None:
        check_prices(prices)
        if not 0 <= idle_w < math.inf:
            raise InputError(f"idle draw is {idle_w:g} W", where="budget", fix="give watts ≥ 0")
        self.budget = budget
        self.prices = tuple(prices)
        self.idle_w = idle_w
        self._seen = _Seen(list(prices))

    # -- input --------------------------------------------------------------------------------------------------

    def begin(self, now_s: float, meter_then_j: float) -> None:
        """Set the meter reading that was valid at the start of the budget's present window (day or month).

        Call this before the first `observe`, and after a change of the budget. Otherwise, energy is counted from the
        first `observe` on.
        """
        self._seen.window = window_at(self.budget, now_s).name
        self._seen.window_meter, self._seen.warned = meter_then_j, []

    def observe(
        self, now_s: float, meter_j: float, remaining_j: Sequence[float] | None = None, limited: bool = False
    ) -> list[Warned]:
        """Record a meter reading, and update the price.

        Args:
            now_s: The present, Unix seconds; not before the time of the last call.
            meter_j: Meter reading of the cluster (or of the project's jobs), in joules, never falling.
            remaining_j: Energy above idle that the active jobs still need at each price
                (`powerflow.energy.remaining_energy`); None if unknown.
            limited: True if `limit_w` has delayed jobs since the last call.

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
        if remaining_j is not None:
            seen.owed = list(remaining_j)
            seen.day_owed = seen.day_owed or list(remaining_j)
        seen.price = self._set_price(window, now_s)
        due = warnings_due(self.budget, now_s, self.standing(now_s), set(seen.warned))
        seen.warned += [warned.at for warned in due]
        return due

    def learn(self, day: Response) -> None:
        """Learn the energy that the jobs of one more day need at each price.

        Before the first `observe`, this method may be called for several past days, oldest first.

        Raises:
            InputError: The day was replayed at other prices.
        """
        if day.prices != self.prices:
            raise InputError(
                "a past day was simulated at other energy prices than those of this budget",
                where="budget",
                fix="simulate the day at the prices of the budget",
            )
        seen = self._seen
        lasted_s = 0.0 if seen.now_s is None else seen.now_s - seen.day_s
        if lasted_s > 0:
            price = seen.day_price_s / lasted_s
            arrived = day.at(price) * lasted_s / DAY_S
            forecast = arrived + self._at(seen.day_owed, price) - self._at(seen.owed, price)
            metered = seen.meter - seen.day_meter - self.idle_w * lasted_s
            # under a limit the price does not decide the energy; over a short time, chance decides it
            if not seen.day_limited and lasted_s >= COMPARED_S:
                seen.metered = (1 - NEWEST) * seen.metered + NEWEST * metered
                seen.forecast = (1 - NEWEST) * seen.forecast + NEWEST * forecast
            seen.day_s, seen.day_meter, seen.day_price_s = seen.day_s + lasted_s, seen.meter, 0.0
            seen.day_limited = False
            seen.day_owed = list(seen.owed)
        seen.curve = _mixed(seen.curve, day.joules)
        seen.full_w = _mixed(seen.full_w, day.full_w)
        seen.under_way = _mixed(seen.under_way, day.under_way_j)

    # -- output -------------------------------------------------------------------------------------------------

    @property
    def price(self) -> float:
        """λ_E until the next `observe`, in seconds per joule; 0 before the first call of `learn`."""
        return self._seen.price

    def limit_w(self, now_s: float) -> float:
        """Return the watts (with idle draw) that may be drawn until the next `observe`.

        At this power, the rest of the budget lasts two hours, or until the window ends if that is sooner.
        """
        window = window_at(self.budget, now_s)
        left_s = max(window.end_s - now_s, 60.0)
        free_j = self.budget.amount_j * (1 - RESERVE) - self._spent_j(window) - self.idle_w * left_s
        return self.idle_w + max(0.0, free_j) / min(left_s, STRETCH_S)

    def standing(self, now_s: float) -> Standing:
        """Return the state of the budget, with a forecast for the end of its window at the present price."""
        window = window_at(self.budget, now_s)
        spent_j = self._spent_j(window)
        left_s = window.end_s - now_s
        expected_j = spent_j + self.idle_w * left_s + self._at(self._need(left_s), self.price)
        # jobs beyond the budget wait, but idle GPUs always draw power
        most_j = max(self.budget.amount_j, spent_j + self.idle_w * left_s)
        return Standing(window, self.budget.amount_j, spent_j, min(expected_j, most_j))

    def outlook(self, now_s: float) -> list[float]:
        """Return, for each price, the joules expected to be used at the end of the present window.

        The list is empty before the first call of `learn`.
        """
        window = window_at(self.budget, now_s)
        left_s = window.end_s - now_s
        fixed_j = self._spent_j(window) + self.idle_w * left_s
        return [fixed_j + need for need in self._need(left_s)]

    @property
    def knows_days(self) -> bool:
        """True after the first call of `learn`. Before, the price is 0, and only `limit_w` keeps the budget."""
        return bool(self._seen.curve)

    def empty_day(self) -> Response | None:
        """Return a day on which no job arrived, as input for `learn`; None before the first call of `learn`."""
        nothing = (0.0,) * len(self.prices)
        return Response(self.prices, nothing, tuple(self._seen.full_w), nothing) if self.knows_days else None

    @property
    def bias(self) -> float:
        """Metered energy divided by predicted energy, both above idle, over the days given to `learn`."""
        seen = self._seen
        if seen.metered <= 0 or seen.forecast <= 0:
            return 1.0
        return min(max(seen.metered / seen.forecast, LEAST_BIAS), MOST_BIAS)

    # -- saved state --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the complete state of the governor as plain JSON values."""
        return asdict(self._seen)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state` has returned.

        Raises:
            InputError: The value is not a state of a governor, or was saved with other prices.
        """
        if set(state) != {f.name for f in fields(_Seen)}:
            raise InputError("its saved state cannot be read", where="budget", fix="let it learn anew", exit_code=1)
        seen = _Seen(**state)
        if tuple(seen.prices) != self.prices:
            raise InputError(
                "its saved state was made with other energy prices than the present ones",
                where="budget",
                fix="let it learn anew",
                exit_code=1,
            )
        self._seen = seen

    # -- internal -----------------------------------------------------------------------------------------------

    def _set_price(self, window: BudgetWindow, now_s: float) -> float:
        left_s = window.end_s - now_s
        beyond_s = max(0.0, HORIZON_S - left_s)
        free_j = self.budget.amount_j * (1 - RESERVE) - self._spent_j(window) - self.idle_w * left_s
        free_j += beyond_s * (self.budget.amount_j * (1 - RESERVE) / window.length_s - self.idle_w)
        need = self._need(left_s + beyond_s)
        return price_for(self.prices, need, free_j) if need else 0.0

    def _need(self, horizon_s: float) -> list[float]:
        """Return, for each price, the joules above idle that jobs need over a time.

        The list is empty before a day was learnt. The need is min(bias · (days · curve + owed − under_way), full_w ·
        time): docs/budgets.md, equation 2. curve is the energy of one day's jobs, owed what active jobs still need now,
        under_way what they usually still need, and full_w the watts above idle while no GPU is free.
        """
        seen, days = self._seen, horizon_s / DAY_S
        if not seen.curve:
            return []
        remaining_j = seen.owed or seen.under_way
        behind = [o - usual for o, usual in zip(remaining_j, seen.under_way, strict=True)]
        work = [self.bias * max(0.0, days * c + b) for c, b in zip(seen.curve, behind, strict=True)]
        # all GPUs together cannot use more, however much work there is
        return falling([min(w, full * horizon_s) for w, full in zip(work, seen.full_w, strict=True)])

    def _at(self, values: Sequence[float], price: float) -> float:
        return between(self.prices, values, price) if values else 0.0

    def _spent_j(self, window: BudgetWindow) -> float:
        """Return the energy used in a window until the last meter reading; 0 if that reading was in another window."""
        return self._seen.meter - self._seen.window_meter if window.name == self._seen.window else 0.0

    def _meter_at(self, moment_s: float, now_s: float, meter_j: float) -> float:
        """Return the meter reading at a moment, interpolated between the last reading and the present one.

        Without a last reading, the present reading is returned.
        """
        seen = self._seen
        if seen.now_s is None or now_s <= seen.now_s:
            return meter_j
        share = min(max((moment_s - seen.now_s) / (now_s - seen.now_s), 0.0), 1.0)
        return seen.meter + share * (meter_j - seen.meter)


def _mixed(old: Sequence[float], new: Sequence[float]) -> list[float]:
    if not old or not new:
        return list(old or new)
    return [(1 - NEWEST) * o + NEWEST * n for o, n in zip(old, new, strict=True)]
