"""Describe the jobs of a kind of cluster, as parameters of the synthetic generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Durations are drawn by class of GPU counts: 1, 2, 4, 8, and 16 for 16 or more.
LARGEST_CLASS = 16


@dataclass(frozen=True, slots=True)
class Component:
    """One lognormal of a mixture: its share, its median in seconds, and the standard deviation of ln(duration)."""

    share: float
    median_s: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Parameters of the submission times: bursts of similar jobs, at a rate that varies.

    Bursts arrive as a doubly stochastic process: the rate is a fixed wave over day and week times a slow lognormal one.

    Attributes:
        burst_mean: Mean jobs per burst. P(burst ≥ k) falls as a power of k; the exponent is chosen to give this mean.
        burst_max: Largest burst, in jobs.
        burst_gap_s: Mean seconds between the jobs of a burst.
        alike: Share of a burst's jobs that last as long (within 10 %) as the one before.
        day_swing: The rate over the day is 1 + day_swing · cos(2π (hour − peak_hour) / 24).
        peak_hour: Hour of the day with the most submissions.
        weekend: Rate on Saturday and Sunday divided by that on other days.
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
    """Statistical profile of a kind of cluster.

    Attributes:
        name: Its name for ``--profile``.
        source: Source of its parameters.
        size_share: GPUs → share of jobs; powers of two.
        durations: Class of GPU counts → mixture of lognormals.
        arrivals: Parameters of the submission times.
    """

    name: str
    source: str
    size_share: Mapping[int, float]
    durations: Mapping[int, tuple[Component, ...]]
    arrivals: Arrivals
