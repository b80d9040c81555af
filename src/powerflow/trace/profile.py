"""Define the parameters from which random jobs are generated. Each kind of cluster has its own profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Durations are drawn by class of GPU counts: 1, 2, 4, 8, and 16 for 16 or more.
LARGEST_CLASS = 16


@dataclass(frozen=True, slots=True)
class Component:
    """Lognormal distribution; a mixture of several describes the durations of jobs.

    ``share`` is its share in the mixture, and ``sigma`` the standard deviation of ln(duration).
    """

    share: float
    median_s: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Parameters of random submission times: bursts of similar jobs, at a rate that varies over time.

    The rate of bursts is a fixed wave over the day and the week, multiplied by a slow lognormal random process.

    Attributes:
        burst_mean: Mean number of jobs per burst. The probability of at least k jobs is a power of k that gives this
            mean.
        burst_max: Largest number of jobs in a burst.
        burst_gap_s: Mean seconds between two jobs of a burst.
        alike: Share of the jobs of a burst that last as long (within 10 %) as the job before.
        day_swing: Size of the wave over the day: the rate is multiplied by 1 + day_swing · cos(2π (hour − peak_hour) /
            24).
        peak_hour: Hour of the day with the most submissions.
        weekend: Rate on Saturday and Sunday divided by the rate on other days.
        swing: Standard deviation of the logarithm of the random process.
        memory: Correlation of the random process between two hours in a row.
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
    """Parameters from which random jobs of one kind of cluster are generated.

    Attributes:
        name: Name of the profile for ``--profile``.
        source: Publication or trace from which the parameters come.
        size_share: Number of GPUs (a power of two) → share of jobs that request it.
        durations: Class of GPU counts → lognormal distributions whose mixture describes the durations.
        arrivals: Parameters of the submission times.
    """

    name: str
    source: str
    size_share: Mapping[int, float]
    durations: Mapping[int, tuple[Component, ...]]
    arrivals: Arrivals
