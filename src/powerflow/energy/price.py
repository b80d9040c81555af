"""Find the lowest price of energy at which a simulation uses no more than a given energy.

A higher price usually means less energy, but not always: one changed decision can change the whole schedule. So the
search remembers every result, does not rely on slopes, and reports how close it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from powerflow.cost.catalogue import GpuType

#: Prices at which days are replayed for a budget, as multiples of `natural_price_of`.
REPLAYED = (0.0, 0.5, 2.0, 8.0, 32.0)

#: Range of the search, as multiples of its ``scale``. Beyond it, less energy is taken to be impossible.
HIGHEST = 1e3
LOWEST = 1e-6


def natural_price_of(cards: Sequence[GpuType]) -> float:
    """Return the natural price of energy in seconds per joule: the mean of 1/D over the GPU types.

    D is a GPU's power limit minus its idle watts. A job that runs T seconds on one GPU costs T + λ_E·D·T
    (docs/policies.md). At λ_E = 1/D, the time and the energy in this sum are equally large.
    """
    return sum(1.0 / (card.limit_w - card.idle_w) for card in cards) / len(cards)


#: The search stops when 1 − energy/target is between 0 and this.
TOLERANCE = 0.005


@dataclass(frozen=True, slots=True)
class PriceFound:
    """Result of the search for the price at which a simulation meets an energy target.

    Attributes:
        energy_price: λ_E, seconds per joule.
        energy: Energy used at that price, in the unit of the target.
        target: The requested energy.
        met: True if ``energy ≤ target``.
        tried: Each simulated price with its energy, in the order of the search.
    """

    energy_price: float
    energy: float
    target: float
    met: bool
    tried: tuple[tuple[float, float], ...]

    @property
    def off(self) -> float:
        """Unused share of the energy target; negative if more than the target was used."""
        return 1.0 - self.energy / self.target


def find_price(
    energy_at: Callable[[float], float],
    target: float,
    *,
    scale: float,
    most_runs: int = 16,
) -> PriceFound:
    """Return the lowest price found at which at most ``target`` energy is used.

    1. Try price 0: if it meets the target, it is the result.
    2. Try ``scale``/16, and then always four times the last price, until the target is met.
    3. Bisect between the last two prices, on a log scale, guided by their energies.

    Args:
        energy_at: Function from price to energy, in the unit of the target. The energy should fall as the price rises;
            a few exceptions do no harm.
        target: Energy not to exceed, > 0.
        scale: Price at which energy is about as important as time, such as 1 / (watts of a busy GPU above idle).
        most_runs: Largest number of calls of ``energy_at``, at least 2.

    Returns:
        The tried price whose energy is closest below the target. If there is none: the price with the lowest energy,
        and ``met`` is False.
    """
    seen: dict[float, float] = {}

    def ask(price: float) -> float:
        if price not in seen:
            seen[price] = energy_at(price)
        return seen[price]

    if ask(0.0) > target:
        low, high = _bracket(ask, target, scale, most_runs)
        while high is not None and len(seen) < most_runs and 1.0 - seen[high] / target > TOLERANCE:
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


def _bracket(ask: Callable[[float], float], target: float, scale: float, most_runs: int) -> tuple[float, float | None]:
    """Return two tried prices: the last with too much energy, and the first without (None if there is none)."""
    low, price = 0.0, scale / 16.0
    for _ in range(most_runs - 1):
        if ask(price) <= target:
            return low, price
        low, price = price, price * 4.0
        if price > scale * HIGHEST:
            break
    return low, None


def _between(low: float, high: float, seen: dict[float, float], target: float, scale: float) -> float:
    """Return a price between ``low`` and ``high`` at which the energy should meet the target.

    It is interpolated over log price and keeps a distance from both ends.
    """
    if low <= 0.0:
        return high / 4.0 if high > scale * LOWEST else 0.0
    drop = seen[low] - seen[high]
    share = (seen[low] - 0.998 * target) / drop if drop > 0 else 0.5
    share = min(max(share, 0.15), 0.85)
    return math.exp((1.0 - share) * math.log(low) + share * math.log(high))
