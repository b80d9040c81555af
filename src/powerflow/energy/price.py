"""Which price of energy meets an energy target: a search over whole simulations.

The more a joule costs, the fewer are used: roughly, since a schedule jumps when one decision changes. So the search
keeps what it has seen, trusts no slope, and says how close it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from powerflow.cost.catalogue import GpuType

#: Prices at which days are replayed for a budget, in natural prices.
REPLAYED = (0.0, 0.5, 2.0, 8.0, 32.0)

#: How far from the natural scale the search goes before it says that less energy cannot be had.
HIGHEST = 1e3
LOWEST = 1e-6


def natural_price_of(cards: Sequence[GpuType]) -> float:
    """A price of energy that matters, seconds per joule: one GPU at its limit, above idle, costs as much as its time.

    In the cost T + λ_E·D·T of a job on one GPU (design §5) the two terms are equal at λ_E = 1/D; here the mean of that.
    """
    return sum(1.0 / (card.limit_w - card.idle_w) for card in cards) / len(cards)


@dataclass(frozen=True, slots=True)
class PriceFound:
    """What the search for a price came to.

    Attributes:
        energy_price: λ_E, seconds per joule.
        energy: What is used at that price, in the unit of the target.
        target: What was asked for.
        met: Whether ``energy ≤ target``.
        tried: Every (price, energy) that was looked at, in that order.
    """

    energy_price: float
    energy: float
    target: float
    met: bool
    tried: tuple[tuple[float, float], ...]

    @property
    def off(self) -> float:
        """How much less than the target is used, as a share of it; negative where it was not met."""
        return 1.0 - self.energy / self.target


def find_price(
    energy_at: Callable[[float], float],
    target: float,
    *,
    scale: float,
    tolerance: float = 0.005,
    most_runs: int = 16,
) -> PriceFound:
    """The lowest price found at which at most ``target`` is used.

    First 0: if that is enough, time is all that matters. Then upwards from ``scale``/16 in steps of 4 until the
    target is met, then bisection between the two prices around it, in the logarithm, guided by the energies.

    Args:
        energy_at: Energy used at a price: joules, or shares of something, as long as the target is in the same unit.
            Should fall with the price; need not do so everywhere.
        target: Energy not to exceed, > 0.
        scale: A price at which energy weighs about as much as time, such as 1 / (watts of a busy GPU above idle).
        tolerance: Enough is known when 1 − energy/target is between 0 and this.
        most_runs: Calls of ``energy_at``, at least 2.

    Returns:
        Of all prices tried, the one that comes closest below the target; if none comes below it, the one with the
        lowest energy, and ``met`` is False.
    """
    seen: dict[float, float] = {}

    def ask(price: float) -> float:
        if price not in seen:
            seen[price] = energy_at(price)
        return seen[price]

    if ask(0.0) > target:
        low, high = _bracket(ask, target, scale, most_runs)
        while high is not None and len(seen) < most_runs and _off(seen[high], target) > tolerance:
            middle = _between(low, high, seen, target, scale)
            if middle in seen:
                break
            if ask(middle) > target:
                low = middle
            else:
                high = middle
    enough = [price for price, energy in seen.items() if energy <= target]
    best = max(enough, key=lambda price: (seen[price], -price)) if enough else min(seen, key=lambda p: (seen[p], p))
    return PriceFound(best, seen[best], target, bool(enough), tuple(seen.items()))


def _off(energy: float, target: float) -> float:
    return 1.0 - energy / target


def _bracket(ask: Callable[[float], float], target: float, scale: float, most_runs: int) -> tuple[float, float | None]:
    """The last price of a rising series that uses too much, and the first that does not (None: there is none)."""
    low, price = 0.0, scale / 16.0
    for _ in range(most_runs - 1):
        if ask(price) <= target:
            return low, price
        low, price = price, price * 4.0
        if price > scale * HIGHEST:
            break
    return low, None


def _between(low: float, high: float, seen: dict[float, float], target: float, scale: float) -> float:
    """A price between two: where a straight line over log price meets the target, kept off the ends."""
    if low <= 0.0:
        return high / 4.0 if high > scale * LOWEST else 0.0
    drop = seen[low] - seen[high]
    share = (seen[low] - 0.998 * target) / drop if drop > 0 else 0.5
    share = min(max(share, 0.15), 0.85)
    return math.exp((1.0 - share) * math.log(low) + share * math.log(high))
