"""Find the energy price at which a policy uses at most a given amount of energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from powerflow.energy.price import PriceFound, find_price
from powerflow.errors import InputError
from powerflow.simulate.comparison import REFERENCE
from powerflow.simulate.frontier import natural_price
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.workload.workload import Workload
from powerflow.units import Amount, kwh, prose

#: Function that simulates a policy, given by its name with options, at an energy price.
RunPolicy = Callable[[str, float], SimulationResult]


@dataclass(frozen=True, slots=True, eq=False)
class TargetRun:
    """A simulation that uses at most a given amount of energy, with the energy price that was found for it.

    Attributes:
        result: The simulation.
        found: The energy price and how it was found. Energies in it are in joules; they are shares of FIFO's energy if
            the amount was given as a share.
        horizon_s: Seconds for which the idle draw of the cluster is counted.
        reference_j: Joules of FIFO at maximum clock; None if the amount was given in joules.
    """

    result: SimulationResult
    found: PriceFound
    horizon_s: float
    reference_j: float | None


def run_at_energy(run: RunPolicy, policy: str, amount: Amount, workload: Workload) -> TargetRun:
    """Find the energy price at which a policy uses at most ``amount`` of energy, and simulate the policy at this price.

    If the amount is in joules, all energy until the policy's last job ends is counted. The amount can also be a share
    of the energy that FIFO uses at maximum clock. Then the idle draw is counted in both simulations until the last job
    of FIFO ends (see `SimulationResult.energy_over`).

    Raises:
        InputError: The policy needs more energy than ``amount`` at every price, or its energy does not depend on the
            price.
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
            f"policy {policy} does not use an energy price",
            where="--energy",
            fix="use prices, or give the policy a clock: +clock:0.7 or +zeus:0.5",
        )
    if amount.relative:
        lowest, asked = f"{found.energy:.1%} of what FIFO uses", f"{amount.value:.1%}"
    else:
        lowest, asked = kwh(found.energy), kwh(amount.value)
    return InputError(
        f"{policy} does not reach {asked}",
        where="--energy",
        fix=f"the lowest it reached is {lowest}, at λ={prose(found.energy_price)}",
    )
