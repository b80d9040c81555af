"""Find the price of energy at which a policy uses at most a given amount of energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from powerflow.energy.price import PriceFound, find_price
from powerflow.errors import InputError
from powerflow.simulate.comparison import REFERENCE
from powerflow.simulate.frontier import natural_price
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.workload.workload import Workload
from powerflow.units import Amount, kwh

#: Simulates a policy (by its spec) at a price of energy.
RunPolicy = Callable[[str, float], SimulationResult]


@dataclass(frozen=True, slots=True, eq=False)
class TargetRun:
    """A simulation that uses at most a given amount of energy.

    Attributes:
        result: The simulation.
        found: The price, and how it was found; energies in joules, or as shares of the reference.
        horizon_s: Time over which idle draw is metered.
        reference_j: Joules of FIFO at maximum clock; None if the amount was given in joules.
    """

    result: SimulationResult
    found: PriceFound
    horizon_s: float
    reference_j: float | None


def run_at_energy(run: RunPolicy, policy: str, amount: Amount, workload: Workload) -> TargetRun:
    """Find the price at which a policy uses at most an amount of energy, and simulate it at that price.

    Joules are metered until the policy's last job has ended. Shares refer to FIFO at maximum clock, with both metered
    as in `powerflow.simulate.compare.compare`.

    Raises:
        InputError: The policy needs more energy at any price, or does not react to prices.
    """
    reference = run(REFERENCE, 0.0) if amount.relative else None
    results: dict[float, SimulationResult] = {}

    def energy_at(price: float) -> float:
        results.clear()  # keep only the last one: results are large
        results[price] = result = run(policy, price)
        return result.energy_over(reference.end_s) / reference.metered_j if reference else result.metered_j

    found = find_price(energy_at, amount.value, scale=natural_price(workload))
    if not found.met:
        raise _unmet(policy, found, amount)
    result = results.get(found.energy_price) or run(policy, found.energy_price)
    if reference is None:
        return TargetRun(result, found, result.end_s, None)
    return TargetRun(result, found, reference.end_s, reference.metered_j)


def _unmet(policy: str, found: PriceFound, amount: Amount) -> InputError:
    if len({energy for _, energy in found.tried}) == 1:
        return InputError(
            f"policy {policy} takes no notice of a price of energy",
            where="--energy",
            fix="use prices, or give the policy a clock: +clock:0.7 or +zeus:0.5",
        )
    if amount.relative:
        lowest, asked = f"{found.energy:.1%} of what FIFO uses", f"{amount.value:.1%}"
    else:
        lowest, asked = kwh(found.energy), kwh(amount.value)
    return InputError(
        f"{policy} does not get down to {asked}",
        where="--energy",
        fix=f"the lowest it reached is {lowest}, at λ={found.energy_price:.3g}",
    )
