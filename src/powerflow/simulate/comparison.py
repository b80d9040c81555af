"""The results of a comparison of policies at equal metered energy, as plain data."""

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
    """The numbers of one simulation, or averages or interpolations of several.

    ``energy_j`` is metered over the common horizon of the comparison. Slowdown is the completion time (JCT) over the
    time alone as submitted. ``jct_weighted_s`` weights each job by its priority.
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
    """One setting of a policy's energy knob (λ_E, a fixed clock, a Zeus η), one seed."""

    policy: str  # full name, "srtf+clock:1005"
    knob: str  # "λ=2e-5", "1005 MHz", "η=0.5"
    seed: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Frontier:
    """The frontier of one policy: all its points, and for each seed those that no other point beats."""

    policy: str  # family name, "srtf"
    points: Sequence[FrontierPoint]
    hull: Mapping[int, Sequence[FrontierPoint]]  # seed -> points by ascending energy, JCT falling


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % confidence interval (Student's t), which is nan for a single seed."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class EqualEnergyRow:
    """One policy at one energy level: ``level`` × the metered energy of FIFO at maximum clock.

    ``metrics`` has estimates over seeds by field name of `Metrics`; it is None if the policy needs more energy.
    ``vs_prices`` and ``vs_bound`` are ratios of mean JCT (1.10 means 10 % slower).
    """

    policy: str
    level: float
    budget_j: float
    metrics: Mapping[str, Estimate] | None
    vs_prices: Estimate | None
    vs_bound: Estimate | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several policies on the same jobs at equal metered energy.

    Attributes:
        title: What was compared, in one line.
        facts: How it was computed, in words by label (trace, jobs, cluster, load, models, belief, seeds, …).
        levels: Energy levels, as shares of FIFO at maximum clock.
        horizon_s: Seconds over which energy is metered for every policy.
        reference_j: FIFO's metered joules at maximum clock over the horizon, mean over seeds.
        frontiers: One per policy.
        bound: Points (joules, seconds) of the proven lower bound on mean JCT, by ascending energy; may be empty.
        rows: The table at equal energy, by level then policy.
        showcase: A few whole simulations for plots over time, by label ("prices at 80 %", "fifo at maximum clock").
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
