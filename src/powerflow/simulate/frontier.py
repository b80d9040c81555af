"""Each policy's own frontier of energy and completion time: which settings to try, which count, what lies between.

`prices` is swept over the price of energy, `greedy` over its threshold. Every other policy, which has no such knob,
is run alone (at the maximum clock), with one fixed clock, and with Zeus's clock at several η. Of a policy's runs on
one seed only those count that no other of its runs beats in both energy and mean completion time; between two
neighbours of these a straight line over energy is assumed. No convex hull is taken: a mixture in time of two settings
is no schedule that anybody ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from powerflow.cost.catalogue import gpu_type
from powerflow.simulate.comparison import FrontierPoint, Metrics
from powerflow.simulate.workload import Workload

#: First prices of energy, in units of `natural_price`.
PRICES = (0.0, 1 / 64, 1 / 16, 1 / 4, 1.0)
#: First thresholds of greedy.
THRESHOLDS = (0.0, 0.5, 1.0, 2.0)
#: Zeus's share of energy in its cost.
ETAS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
#: How far the knobs are ever turned.
LARGEST_PRICE = 64.0
LARGEST_THRESHOLD = 16.0
#: Neighbours whose mean completion times differ by less are close enough to draw a line between.
CLOSE = 0.02


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a policy.

    Attributes:
        policy: The spec that `powerflow.policy.registry.load` knows.
        energy_price: λ_E, seconds per joule.
        knob: What was set, for people.
        value: The number that the knob stands at, where it can be turned further; else nan.
    """

    policy: str
    energy_price: float
    knob: str
    value: float = float("nan")


@dataclass(frozen=True, slots=True)
class Density:
    """How finely the frontiers of policies without a knob of their own are sampled.

    Attributes:
        clocks: How many fixed clocks, spread evenly over those there are; the maximum is the policy alone.
        etas: Zeus's η.
    """

    clocks: int = 7
    etas: Sequence[float] = ETAS


def family(policy: str) -> str:
    """A policy's name without options and overlays."""
    return policy.split("+")[0].split(":")[0]


def natural_price(workload: Workload) -> float:
    """A price of energy that matters, seconds per joule: one GPU at its limit, above idle, costs as much as its time.

    In the cost T + λ_E·D·T of a job on one GPU (design §5) the two terms are equal at λ_E = 1/D.
    """
    cards = [gpu_type(name) for name in workload.axes]
    return sum(1.0 / (card.limit_w - card.idle_w) for card in cards) / len(cards)


def first_settings(policy: str, workload: Workload, density: Density) -> list[Setting]:
    """Where to begin with a policy, its fastest setting first."""
    if "+" in policy:
        return [Setting(policy, 0.0, "as given")]
    if family(policy) == "prices":
        scale = natural_price(workload)
        return [_priced(policy, share * scale) for share in PRICES]
    if policy == "greedy":
        return [_threshold(threshold) for threshold in THRESHOLDS]
    return [
        Setting(policy, 0.0, "maximum clock"),
        *(Setting(f"{policy}+zeus:{eta:g}", 0.0, f"η={eta:g}") for eta in density.etas),
        *_fixed_clocks(policy, workload, density.clocks),
    ]


def finer_settings(
    policy: str, tried: Sequence[tuple[Setting, Metrics]], budgets_j: Sequence[float], workload: Workload
) -> list[Setting]:
    """Which settings to try next, so that each budget lies between two near neighbours of the frontier.

    Args:
        policy: A policy with a knob of its own; for others there is nothing finer.
        tried: What has been tried on this seed.
        budgets_j: Energies at which the frontier matters, joules.
        workload: For the scale of prices.
    """
    if family(policy) != "prices" and policy != "greedy":
        return []
    scale, largest = (natural_price(workload), LARGEST_PRICE) if policy != "greedy" else (1.0, LARGEST_THRESHOLD)
    known = {setting.value for setting, _ in tried}
    by_value = sorted(tried, key=lambda pair: pair[0].value)
    wanted: set[float] = set()
    if min(m.energy_j for _, m in tried) > min(budgets_j) and (top := by_value[-1][0].value) < largest * scale:
        wanted.add(top * 4.0 if policy != "greedy" else top * 2.0)
    front = pareto_indices([m for _, m in tried])
    for budget_j in budgets_j:
        for lower, upper in zip(front, front[1:], strict=False):
            (cheap, slow), (dear, fast) = tried[lower], tried[upper]
            if slow.energy_j <= budget_j <= fast.energy_j and slow.jct_mean_s > (1 + CLOSE) * fast.jct_mean_s:
                wanted.add(_between(dear.value, cheap.value, scale))
    make = _threshold if policy == "greedy" else lambda value: _priced(policy, value)
    return [make(value) for value in sorted(wanted) if not any(_same(value, other) for other in known)]


def pareto_indices(rows: Sequence[Metrics]) -> list[int]:
    """Which rows no other beats in both energy and mean completion time, by ascending energy."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].energy_j, rows[i].jct_mean_s))
    front: list[int] = []
    for i in order:
        if not front or rows[i].jct_mean_s < rows[front[-1]].jct_mean_s:
            front.append(i)
    return front


def hull(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """The points of one policy on one seed that count: by ascending energy, completion times falling."""
    return [points[i] for i in pareto_indices([point.metrics for point in points])]


def at_energy(frontier: Sequence[FrontierPoint], budget_j: float) -> Metrics | None:
    """What a policy does with at most so much energy.

    Between two neighbours of its frontier every number is interpolated linearly over energy. Where even its fastest
    setting needs less than the budget, that setting: it leaves the rest unused. None where no setting is so sparing.

    Args:
        frontier: See `hull`; not empty.
        budget_j: Joules.
    """
    if budget_j < frontier[0].metrics.energy_j:
        return None
    for lower, upper in zip(frontier, frontier[1:], strict=False):
        below, above = lower.metrics, upper.metrics
        if budget_j < above.energy_j:
            share = (budget_j - below.energy_j) / (above.energy_j - below.energy_j)
            high = asdict(above)
            return Metrics(**{name: low + share * (high[name] - low) for name, low in asdict(below).items()})
    return frontier[-1].metrics


def over(metrics: Metrics, more_j: float) -> Metrics:
    """The same run, metered over a longer horizon in which the empty cluster drew ``more_j`` joules."""
    return replace(metrics, energy_j=metrics.energy_j + more_j)


def _priced(policy: str, price: float) -> Setting:
    return Setting(policy, price, f"λ={price:.3g}", price)


def _threshold(threshold: float) -> Setting:
    return Setting(f"greedy:{threshold:g}", 0.0, f"threshold={threshold:g}", threshold)


def _fixed_clocks(policy: str, workload: Workload, count: int) -> list[Setting]:
    """Fixed clocks, falling, the maximum left out. With several GPU types they are shares of each one's maximum."""
    clocks = next(iter(workload.axes.values())).clocks_mhz
    last = len(clocks) - 1
    chosen = sorted({round(k * last / max(count - 1, 1)) for k in range(count)} - {last}, reverse=True)
    if len(workload.axes) == 1:
        return [Setting(f"{policy}+clock:{clocks[i]:g}", 0.0, f"{clocks[i]:g} MHz") for i in chosen]
    # the overlay takes the nearest clock at or below: a hundredth more finds the clock that is meant
    shares = [float(clocks[i] / clocks[-1]) + 0.01 for i in chosen]
    return [Setting(f"{policy}+clock:{share:.2f}", 0.0, f"{share:.0%} of maximum clock") for share in shares]


def _between(low: float, high: float, scale: float) -> float:
    """A setting between two of a knob whose effect goes by ratios; near 0 a quarter of the upper one."""
    low, high = min(low, high), max(low, high)
    if low > 0:
        return float(f"{(low * high) ** 0.5:.4g}")
    return float(f"{high / 4:.4g}") if high > 1e-4 * scale else 0.0


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 0.02 * max(a, b)
