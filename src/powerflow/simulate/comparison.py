"""Define the results of a comparison of policies at equal metered energy, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow.simulate.result import SimulationResult

#: Reference policy: energy levels are shares of its metered energy at the maximum clock.
REFERENCE = "fifo"
#: Policy that is the subject of a comparison, if it takes part.
OURS = "prices"


@dataclass(frozen=True, slots=True)
class Metrics:
    """The result figures of one simulation, or their averages over several simulations.

    ``energy_j`` counts idle draw over the same time for all policies of a comparison. The slowdown of a job is its
    completion time (JCT) divided by the time that it would take alone, as submitted. ``jct_weighted_s`` is the mean
    completion time with each job weighted by its priority. ``jct_p50_s`` and ``jct_p99_s`` are the median and the 99th
    percentile.
    """

    jct_mean_s: float
    jct_weighted_s: float
    jct_p50_s: float
    jct_p99_s: float
    wait_mean_s: float
    slowdown_mean: float
    makespan_s: float
    gpu_hours: float
    rescales_per_job: float
    energy_j: float


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """The results of a policy for one seed and one value of its energy knob.

    The knob is the energy price, a fixed clock, or Zeus's η (the share of energy in Zeus's cost).
    """

    policy: str  # full name, "srtf+clock:1005"
    knob: str  # "λ=2e-5", "1005 MHz", "η=0.5"
    seed: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Frontier:
    """The frontier of one policy, and all points that were simulated to find it.

    ``hull`` has for each seed the points that no other point beats in both energy and mean completion time.
    """

    policy: str  # family name, "srtf"
    points: Sequence[FrontierPoint]
    hull: Mapping[int, Sequence[FrontierPoint]]  # seed -> points by ascending energy, JCT falling


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, with the ends of its 95 % confidence interval (Student's t); the ends are nan for one seed."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class EqualEnergyRow:
    """The results of one policy at one energy level.

    ``level`` is a share of the energy that FIFO uses at maximum clock; ``budget_j`` is the same energy in joules, as a
    mean over seeds. ``metrics`` has a mean over seeds for each field of `Metrics`; it is None if the policy needs more
    energy than this level. ``vs_prices`` is the policy's mean completion time divided by that of `prices` (1.10 means
    10 % slower). ``vs_bound`` is the policy's mean completion time divided by the lower bound.
    """

    policy: str
    level: float
    budget_j: float
    metrics: Mapping[str, Estimate] | None
    vs_prices: Estimate | None
    vs_bound: Estimate | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of several policies on the same jobs at equal metered energy.

    Attributes:
        title: Title of the comparison, in one line.
        facts: How the comparison was made: label → words (trace, jobs, cluster, load, models, belief, seeds, …).
        levels: Energy levels, as shares of the energy that FIFO uses at maximum clock.
        horizon_s: Seconds for which idle draw is counted for every policy, mean over seeds.
        reference_j: Joules of FIFO at maximum clock over this time, mean over seeds.
        frontiers: One frontier for each policy.
        bound: Points (joules, seconds) of the proven lower bound on mean completion time, by ascending energy; may be
            empty.
        rows: Results of each policy at each level, ordered by level, then by policy.
        showcase: A few whole simulations for plots over time: label ("prices at 80 % of the energy") → simulation.
    """

    title: str
    facts: Mapping[str, str]
    levels: Sequence[float]
    horizon_s: float
    reference_j: float
    frontiers: Sequence[Frontier]
    bound: Sequence[tuple[float, float]]
    rows: Sequence[EqualEnergyRow]
    showcase: Mapping[str, SimulationResult]
