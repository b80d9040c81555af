"""Compute the frontier of each policy: the least mean completion time that it reaches with each amount of energy.

Each policy has one knob: a number that trades completion time for energy. The knob of `prices` is the energy price, and
the knob of `greedy` is its threshold. All other policies run at the maximum clock, at some fixed clocks, and with the
clock that Zeus (a method that chooses clocks) finds for some values of η, the share of energy in Zeus's cost. Each
value of a knob is simulated. More values are tried near the energies that are compared. The frontier consists of the
simulations that no other simulation of the same policy and seed beats in both energy and mean completion time.
Neighbouring points of the frontier are joined by straight lines over energy. The frontier is not the convex hull of the
simulations: a point of the hull would need a schedule that mixes two settings over time, and such a schedule was not
simulated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from powerflow.cost.catalogue import gpu_type
from powerflow.energy.price import natural_price_of
from powerflow.simulate.comparison import FrontierPoint, Metrics
from powerflow.simulate.workload.workload import Workload
from powerflow.units import prose

#: Highest price of energy for `prices` and for the bound, in units of `natural_price`.
DEAREST = 16.0
#: If the mean completion times of two neighbouring points differ by at most this share, no value between is tried.
CLOSE = 0.03


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a policy: its name with options, and one value of its energy knob.

    Attributes:
        policy: Name with options, as `powerflow.policy.registry.load` reads it.
        energy_price: λ_E, seconds per joule.
        knob: The value of the knob, in words ("λ=2e-05", "1005 MHz").
        value: The value of the knob as a number; nan if no values between this one and another can be tried.
    """

    policy: str
    energy_price: float
    knob: str
    value: float = float("nan")


@dataclass(frozen=True, slots=True)
class Sweep:
    """The first values of each policy's energy knob, and the energy prices for which the lower bound is computed.

    Attributes:
        prices: Energy prices for the policy `prices`, in units of `natural_price`.
        thresholds: Thresholds of the policy `greedy`.
        etas: Values of η, the share of energy in the cost by which Zeus chooses clocks.
        clocks: Number of fixed clocks, spread evenly from the lowest to the maximum clock; the maximum is included.
        rounds: Number of times that new values between tried values are added.
        bound: Energy prices for which the lower bound is computed, in units of `natural_price`. The highest prices
            matter where energy is scarce.
    """

    prices: Sequence[float] = (0.0, 1 / 64, 1 / 16, 1 / 4, 1.0)
    thresholds: Sequence[float] = (0.0, 0.5, 1.0, 2.0)
    etas: Sequence[float] = (0.4, 0.7, 0.95)
    clocks: int = 4
    rounds: int = 4
    bound: Sequence[float] = (0.0, *(DEAREST / 2.0**k for k in range(9, -1, -1)))


@dataclass(frozen=True, slots=True)
class _Knob:
    """The energy knob of a policy: how a setting is made from a value, and the largest value.

    With ``ratio`` the middle of two values is geometric (energy price, threshold), otherwise arithmetic (Zeus's η).
    Values below ``grain`` have the same effect as 0.
    """

    make: Callable[[float], Setting]
    ratio: bool
    grain: float
    largest: float

    def between(self, a: float, b: float) -> float:
        low, high = min(a, b), max(a, b)
        if not self.ratio:
            return float(f"{(low + high) / 2:.3g}")
        if low == 0:
            return float(f"{high / 4:.3g}") if high > self.grain else 0.0
        return float(f"{(low * high) ** 0.5:.3g}")


def family(policy: str) -> str:
    """Return the name of a policy without its options: "srtf" for "srtf+clock:1005"."""
    return re.split(r"[+:]", policy, maxsplit=1)[0]


def natural_price(workload: Workload) -> float:
    """Return the natural price of energy (`natural_price_of`) for the GPU types of a cluster, seconds per joule."""
    return natural_price_of([gpu_type(name) for name in workload.axes])


def _knob(policy: str, workload: Workload) -> _Knob:
    if family(policy) == "prices":
        scale = natural_price(workload)
        return _Knob(
            lambda value: Setting(policy, value, f"λ={prose(value)}", value), True, 1e-3 * scale, DEAREST * scale
        )
    if policy == "greedy":
        return _Knob(lambda value: Setting(f"greedy:{value:g}", 0.0, f"threshold={value:g}", value), True, 0.05, 16.0)
    return _Knob(lambda value: Setting(f"{policy}+zeus:{value:g}", 0.0, f"η={value:g}", value), False, 0.0, 1.0)


def first_settings(policy: str, workload: Workload, sweep: Sweep) -> list[Setting]:
    """Return the first settings to try for a policy, the fastest setting first.

    A policy whose name already has an overlay (the part after "+", such as "+clock:1005") has one setting only.
    """
    if "+" in policy:
        return [Setting(policy, 0.0, "as given")]
    knob = _knob(policy, workload)
    if family(policy) == "prices":
        return [knob.make(share * natural_price(workload)) for share in sweep.prices]
    if policy == "greedy":
        return [knob.make(threshold) for threshold in sweep.thresholds]
    alone = Setting(policy, 0.0, "maximum clock", 0.0)
    return [alone, *map(knob.make, sweep.etas), *_fixed_clocks(policy, workload, sweep.clocks)]


def finer_settings(
    policy: str,
    tried: Sequence[tuple[Setting, Metrics]],
    budgets_j: Sequence[float],
    workload: Workload,
) -> list[Setting]:
    """Return the settings to try next, so that each budget lies between two close points of the frontier.

    Args:
        policy: Name of the policy.
        tried: Settings that were tried on this seed, with their results.
        budgets_j: Energies at which policies are compared, joules.
        workload: The workload; the scale of energy prices follows from its GPU types.
    """
    if "+" in policy or not tried:
        return []
    knob = _knob(policy, workload)
    values = [setting.value for setting, _ in tried if math.isfinite(setting.value)]
    wanted: set[float] = set()
    if values and min(numbers.energy_j for _, numbers in tried) > min(budgets_j):
        wanted.add(min(4.0 * max(values), knob.largest))
    front = [tried[i] for i in pareto_indices([numbers for _, numbers in tried])]
    for k, ((_, slow), (_, fast)) in enumerate(pairwise(front)):
        asked = any(slow.energy_j <= budget_j <= fast.energy_j for budget_j in budgets_j)
        if asked and slow.jct_mean_s > (1 + CLOSE) * fast.jct_mean_s:
            # fixed clocks are no values of the knob: use the nearest values on both sides
            below = [s.value for s, _ in front[: k + 1] if math.isfinite(s.value)]
            above = [s.value for s, _ in front[k + 1 :] if math.isfinite(s.value)]
            if below and above:
                wanted.add(knob.between(below[-1], above[0]))
    new = (value for value in sorted(wanted) if not any(abs(value - old) <= 0.02 * max(value, old) for old in values))
    return [knob.make(value) for value in new]


def pareto_indices(rows: Sequence[Metrics]) -> list[int]:
    """Return the positions of the rows that no other row beats in both energy and mean completion time.

    The positions are in ascending order of energy.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].energy_j, rows[i].jct_mean_s))
    front: list[int] = []
    for i in order:
        if not front or rows[i].jct_mean_s < rows[front[-1]].jct_mean_s:
            front.append(i)
    return front


def hull(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Return the frontier: the points that no other point beats in both energy and mean completion time.

    All points belong to one policy and one seed. In the result, energies ascend and mean completion times fall.
    """
    return [points[i] for i in pareto_indices([point.metrics for point in points])]


def at_energy(frontier: Sequence[FrontierPoint], budget_j: float) -> Metrics | None:
    """Return the results of a policy with at most ``budget_j`` joules; None if each of its settings needs more energy.

    ``frontier`` is the result of `hull`. Between two neighbouring points of the frontier, results are interpolated
    linearly over energy. If the fastest setting needs less energy than the budget, the result is that of the fastest
    setting.
    """
    if not frontier or budget_j < frontier[0].metrics.energy_j:
        return None
    for lower, upper in pairwise(frontier):
        below, above = lower.metrics, upper.metrics
        if budget_j < above.energy_j:
            share = (budget_j - below.energy_j) / (above.energy_j - below.energy_j)
            high = asdict(above)
            return Metrics(**{name: low + share * (high[name] - low) for name, low in asdict(below).items()})
    return frontier[-1].metrics


def _fixed_clocks(policy: str, workload: Workload, count: int) -> list[Setting]:
    """Return settings of a policy with fixed clocks below the maximum clock, in falling order of clocks.

    With several GPU types, each clock is given as a share of the maximum clock of a type.
    """
    clocks = next(iter(workload.axes.values())).clocks_mhz
    last = len(clocks) - 1
    chosen = sorted({round(k * last / max(count - 1, 1)) for k in range(count)} - {last}, reverse=True)
    if len(workload.axes) == 1:
        return [Setting(f"{policy}+clock:{clocks[i]:g}", 0.0, f"{clocks[i]:g} MHz") for i in chosen]
    # the overlay takes the nearest clock at or below the share: add a hundredth because of rounding
    shares = [float(clocks[i] / clocks[-1]) + 0.01 for i in chosen]
    return [Setting(f"{policy}+clock:{share:.2f}", 0.0, f"{share:.0%} of maximum clock") for share in shares]
