"""Describe how the energy of a day's jobs falls as the energy price rises. Governors use this curve.

For the curve, recent days are simulated at a few prices. Each simulation runs until its last job has ended. Otherwise a
high price would seem to save energy because work is left undone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from powerflow.errors import InputError


@dataclass(frozen=True, slots=True)
class Response:
    """Energy above idle that the jobs of one day need, at several prices of energy.

    Attributes:
        prices: λ_E in seconds per joule, ascending, the first 0.
        joules: At each price, energy above idle of the jobs that arrive in a day; not rising from price to price.
        full_w: At each price, watts above idle while no GPU is free; not rising from price to price.
        under_way_j: At each price, energy above idle that active jobs still need, on average over the day.
    """

    prices: tuple[float, ...]
    joules: tuple[float, ...]
    full_w: tuple[float, ...]
    under_way_j: tuple[float, ...]

    def at(self, price: float) -> float:
        """Return the energy of the day's jobs at a price, in joules, interpolated over log price.

        Below the lowest and above the highest price of the curve, the energy is constant.
        """
        return between(self.prices, self.joules, price)

    def of_whole_day(self, share: float) -> Response:
        """Return this response scaled to a whole day, if it describes only a ``share`` of a day."""
        joules, under_way_j = (tuple(j / share for j in joules) for joules in (self.joules, self.under_way_j))
        return replace(self, joules=joules, under_way_j=under_way_j)


def response(points: Sequence[tuple[float, float, float, float]]) -> Response:
    """Return the curve of energy over price, from simulations of a day at several prices.

    Args:
        points: For each simulation (price, joules, full_w, under_way_j), with the meanings in `Response`.

    Raises:
        InputError: The prices fail `check_prices`, or an energy is negative or not finite.
    """
    ordered = sorted(points)
    prices = tuple(price for price, *_ in ordered)
    check_prices(prices)
    if not all(0 <= number < math.inf for _, *numbers in ordered for number in numbers):
        raise InputError("a replay's energy is not a number ≥ 0", where="response")
    joules, full_w = (tuple(falling([point[i] for point in ordered])) for i in (1, 2))
    return Response(prices, joules, full_w, tuple(point[3] for point in ordered))


def check_prices(prices: Sequence[float]) -> None:
    """Check that a list of prices can be used for a curve of energy over price.

    Raises:
        InputError: There are fewer than two prices, the first is not 0, or they are not ascending and finite.
    """
    ascending = all(low < high < math.inf for low, high in itertools.pairwise(prices))
    if len(prices) < 2 or prices[0] != 0 or not ascending:
        raise InputError("replays need at least two ascending prices, the first of them 0", where="response")


def falling(values: Sequence[float]) -> list[float]:
    """Return the never rising sequence that is closest to the given values, by least squares.

    A higher price should mean less energy, but simulations have exceptions. Where a value is larger than the one
    before, both are replaced by their mean, until the sequence never rises (pool adjacent violators algorithm).
    """
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and _mean(pools[-1]) > _mean(pools[-2]):
            last = pools.pop()
            pools[-1] += last
    return [_mean(pool) for pool in pools for _ in pool]


def between(prices: Sequence[float], values: Sequence[float], price: float) -> float:
    """Return the value of a curve at ``price``, by linear interpolation over log(price + lowest price above 0)."""
    if price <= prices[0]:
        return values[0]
    for i in range(1, len(prices)):
        if price <= prices[i]:
            low, high = _scale(prices, prices[i - 1]), _scale(prices, prices[i])
            share = (_scale(prices, price) - low) / (high - low)
            return values[i - 1] + share * (values[i] - values[i - 1])
    return values[-1]


def price_for(prices: Sequence[float], values: Sequence[float], target: float) -> float:
    """Return the lowest price at which a falling curve is at most ``target``; the last price if there is none."""
    if values[0] <= target:
        return prices[0]
    for i in range(1, len(prices)):
        if values[i] <= target:
            share = (values[i - 1] - target) / (values[i - 1] - values[i])
            low, high = _scale(prices, prices[i - 1]), _scale(prices, prices[i])
            return min(max(prices[i - 1], math.exp(low + share * (high - low)) - prices[1]), prices[i])
    return prices[-1]


def _scale(prices: Sequence[float], price: float) -> float:
    return math.log(price + prices[1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
