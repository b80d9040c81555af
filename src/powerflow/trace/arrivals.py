"""Draw the random submission times of synthetic jobs: bursts of jobs, at a rate that varies over time.

`powerflow.trace.profile.Arrivals` has the parameters.
"""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.trace.profile import Arrivals
from powerflow.units import HOUR_S


def normalised(weights: FloatArray) -> FloatArray:
    """Scale weights so that their sum is 1."""
    chance: FloatArray = weights / weights.sum()
    return chance


def bursts(rng: np.random.Generator, arrivals: Arrivals, jobs: int) -> IntArray:
    """Draw random bursts; return for each job the number of its burst (0, 0, 1, 2, 2, 2, …).

    The probability that a burst has at least k jobs is k^−a. The exponent a follows from the mean number of jobs per
    burst.
    """
    lengths = np.arange(1, arrivals.burst_max + 1)
    low, high = 0.0, 20.0
    for _ in range(60):  # bisection: the mean length Σ k^−a falls as a grows
        power = (low + high) / 2
        low, high = (power, high) if (lengths**-power).sum() > arrivals.burst_mean else (low, power)
    at_least = lengths**-low
    chance = at_least - np.append(at_least[1:], 0.0)
    drawn = rng.choice(lengths, size=jobs, p=normalised(chance))  # each burst has at least one job, so these are enough
    return np.repeat(np.arange(jobs), drawn)[:jobs].astype(np.int64)


def submissions(rng: np.random.Generator, arrivals: Arrivals, burst: IntArray, span_s: float) -> FloatArray:
    """Return random submission times of jobs in whole seconds, from 0 to ``span_s``.

    ``burst`` has the number of each job's burst. Bursts start at a rate that varies over time. The jobs of a burst are
    submitted soon after each other.
    """
    hours = np.arange(math.ceil(span_s / HOUR_S))
    day_wave = 1 + arrivals.day_swing * np.cos(2 * np.pi * (hours % 24 + 0.5 - arrivals.peak_hour) / 24)
    week_wave = np.where(hours // 24 % 7 >= 5, arrivals.weekend, 1.0)
    rate = day_wave * week_wave * np.exp(_slow_swing(rng, arrivals, len(hours)))
    edges = np.append(hours, span_s / HOUR_S)
    done = np.append(0.0, np.cumsum(rate * np.diff(edges)))
    count = int(burst[-1]) + 1
    start_s = np.interp(rng.random(count), done / done[-1], edges) * HOUR_S

    gap_s = rng.exponential(arrivals.burst_gap_s, size=len(burst))
    first = np.append(True, burst[1:] != burst[:-1])
    since_s = np.cumsum(np.where(first, 0.0, gap_s))
    since_s -= since_s[first][burst]
    submit_s = start_s[burst] + since_s
    beyond_s = np.zeros(count)  # a burst that would exceed the span starts earlier
    np.maximum.at(beyond_s, burst, submit_s - span_s)
    whole_s: FloatArray = np.floor((submit_s - beyond_s[burst]).clip(0.0, span_s))
    return whole_s


def _slow_swing(rng: np.random.Generator, arrivals: Arrivals, hours: int) -> FloatArray:
    """Return the logarithm of a random rate for each hour: Gaussian and autoregressive.

    The rate of each hour has the correlation ``arrivals.memory`` with the rate of the hour before.
    """
    variance = arrivals.swing**2
    if variance == 0:
        return np.zeros(hours)
    memory = math.log1p(arrivals.memory * math.expm1(variance)) / variance
    shocks = rng.normal(size=hours)
    swing = np.empty(hours)
    level = shocks[0]
    for hour in range(hours):
        level = level if hour == 0 else memory * level + math.sqrt(1 - memory**2) * shocks[hour]
        swing[hour] = level
    return arrivals.swing * swing
