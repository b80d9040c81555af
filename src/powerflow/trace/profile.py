"""What a cluster's jobs are like, as parameters of the synthetic generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LARGEST_CLASS = 16


def duration_class(gpus: int) -> int:
    """The class of GPU counts whose durations are drawn alike: 1, 2, 4, 8, and 16 for 16 or more."""
    return min(gpus, LARGEST_CLASS)


@dataclass(frozen=True, slots=True)
class Component:
    """One lognormal of a mixture: its share, its median in seconds, and the deviation of ln(duration)."""

    share: float
    median_s: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When jobs are submitted: bursts of like jobs, whose rate follows the day, the week, and a slow random swing.

    A doubly stochastic process: bursts arrive at a rate that is a deterministic wave times a lognormal one.

    Attributes:
        burst_mean: Mean jobs per burst. P(burst ≥ k) falls as a power of k, the power being what gives this mean.
        burst_max: Longest burst, jobs.
        burst_gap_s: Mean seconds between the jobs of a burst.
        alike: Share of the jobs of a burst that last as long (within 10 %) as the one before.
        day_swing: Rate over the day is 1 + day_swing · cos(2π (hour − peak_hour) / 24).
        peak_hour: Hour of the day with the most submissions.
        weekend: Rate on Saturday and Sunday over that on other days.
        swing: Standard deviation of the logarithm of the random rate.
        memory: Correlation of the random rate from one hour to the next.
    """

    burst_mean: float
    burst_max: int
    burst_gap_s: float
    alike: float
    day_swing: float
    peak_hour: float
    weekend: float
    swing: float
    memory: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of cluster.

    Attributes:
        name: What ``--profile`` calls it.
        source: Where its figures come from.
        size_share: GPUs → share of jobs; powers of two.
        durations: Class of GPU counts → mixture of lognormals.
        arrivals: When they come.
    """

    name: str
    source: str
    size_share: Mapping[int, float]
    durations: Mapping[int, tuple[Component, ...]]
    arrivals: Arrivals
