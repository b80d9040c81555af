"""Fit a profile of the synthetic generator to a real trace.

``python -m benchmarks.calibrate TRACE [TZ]`` prints the profile. The profiles PHILLY and ITP were made this way.
Hours
of the day are those of UTC; give ``UTC`` as TZ to keep a log's local times.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.trace.arrivals import bursts, submissions
from powerflow.trace.profile import LARGEST_CLASS, Arrivals, Component, Profile
from powerflow.trace.record import Trace, TraceJob
from powerflow.units import DAY_S, HOUR_S

BURST_GAP_S = 60.0  # jobs of one size with shorter gaps count as submitted together
_COMPONENTS = 3
_SEEDS = 7
_MOST_SWING = 50  # twentieths
_FEW = 30  # a class with fewer jobs is not fitted by itself


def fit_profile(trace: Trace, name: str, source: str) -> Profile:
    """Return the profile that best describes a trace.

    GPU counts are copied; durations are fitted as a mixture of lognormals for each class of GPU counts (EM); arrivals
    by the
    method of moments (see ``Arrivals``).

    Args:
        trace: A trace of many jobs, over some weeks, with known durations.
        name: Name of the profile.
        source: Source of the trace.
    """
    gpus = np.array([job.gpus for job in trace.jobs])
    log_s = np.log([job.duration_s for job in trace.jobs])
    powers = 2 ** np.round(np.log2(gpus)).astype(int)
    sizes, counts = np.unique(powers, return_counts=True)
    by_class: dict[int, tuple[Component, ...]] = {}
    for size in sorted({min(int(size), LARGEST_CLASS) for size in sizes}):
        members = log_s[np.minimum(powers, LARGEST_CLASS) == size]
        by_class[size] = lognormal_mixture(members if len(members) >= _FEW else log_s)
    return Profile(
        name=name,
        source=source,
        size_share={int(size): round(float(count) / len(gpus), 5) for size, count in zip(sizes, counts, strict=True)},
        durations=by_class,
        arrivals=fit_arrivals(trace.jobs),
    )


def fit_arrivals(jobs: Sequence[TraceJob]) -> Arrivals:
    """Fit bursts, day and week by moments, and the slow swing of the rate by simulation.

    The swing is chosen so that simulated jobs per hour vary as much as the log's, by variance over mean
    (``dispersion``).

    Args:
        jobs: Jobs in order of submission.
    """
    submit_s = np.array([job.submit_s for job in jobs])
    gaps_s = np.diff(submit_s)
    sizes = np.array([job.gpus for job in jobs])
    durations_s = np.array([job.duration_s for job in jobs])
    together = (gaps_s < BURST_GAP_S) & (sizes[1:] == sizes[:-1])
    first = np.concatenate([[True], ~together])
    alike = np.abs(np.log(durations_s[1:] / durations_s[:-1])) < 0.1
    runs = [1 + sum(1 for _ in run) for joined, run in groupby(together) if joined]
    bursts_s = submit_s[first]

    turn = np.exp(2j * np.pi * (submit_s % DAY_S) / DAY_S).mean()
    weekend = ((submit_s // DAY_S + 3) % 7 >= 5).mean() * 7 / 2  # 1 January 1970 was a Thursday
    hourly = np.bincount(((bursts_s - bursts_s[0]) // HOUR_S).astype(int)).astype(float)
    centred = hourly - hourly.mean()
    memory = float((centred[1:] * centred[:-1]).mean() / max(hourly.var() - hourly.mean(), 1e-9))
    without_swing = Arrivals(
        burst_mean=round(len(jobs) / int(first.sum()), 2),
        burst_max=max(runs, default=1),
        burst_gap_s=round(float(gaps_s[together].mean()) if together.any() else 1.0, 1),
        alike=round(float(alike[together].mean()) if together.any() else 0.0, 2),
        day_swing=round(min(2 * float(abs(turn)), 0.9), 2),
        peak_hour=round(float(np.angle(turn) / (2 * np.pi) * 24 % 24), 1),
        weekend=round(float(min(weekend / max((7 - 2 * weekend) / 5, 1e-9), 1.0)), 2),
        swing=0.0,
        memory=round(min(max(memory, 0.0), 0.95), 2),
    )
    span_s = float(submit_s[-1] - submit_s[0])
    wanted = dispersion(submit_s)

    def too_calm(swing: float) -> bool:
        arrivals = replace(without_swing, swing=swing)
        drawn = []
        for seed in range(_SEEDS):
            rng = np.random.default_rng(seed)
            drawn.append(dispersion(submissions(rng, arrivals, bursts(rng, arrivals, len(jobs)), span_s)))
        return float(np.median(drawn)) < wanted

    return replace(without_swing, swing=bisect_left(range(_MOST_SWING), True, key=lambda k: not too_calm(k / 20)) / 20)


def dispersion(submit_s: FloatArray) -> float:
    """Return variance over mean of the jobs per hour; 1 for a Poisson process."""
    hourly = np.bincount(((submit_s - submit_s.min()) // HOUR_S).astype(int))
    return float(hourly.var() / hourly.mean())


def lognormal_mixture(log_s: FloatArray, components: int = _COMPONENTS, rounds: int = 300) -> tuple[Component, ...]:
    """Fit a mixture of lognormals by expectation maximisation (EM), starting from quantiles instead of random values.

    Args:
        log_s: Natural logarithms of durations in seconds.
        components: Number of lognormals.
        rounds: Number of EM steps.
    """
    means = np.quantile(log_s, (np.arange(components) + 0.5) / components)
    spreads = np.full(components, log_s.std() / components + 0.1)
    shares = np.full(components, 1.0 / components)
    for _ in range(rounds):
        distance = (log_s[:, None] - means) / spreads
        log_weight = np.log(shares) - np.log(spreads) - 0.5 * distance**2
        log_weight -= log_weight.max(axis=1, keepdims=True)
        weight = np.exp(log_weight)
        weight /= weight.sum(axis=1, keepdims=True)
        mass = weight.sum(axis=0) + 1e-9
        shares = mass / mass.sum()
        means = (weight * log_s[:, None]).sum(axis=0) / mass
        spreads = np.sqrt((weight * (log_s[:, None] - means) ** 2).sum(axis=0) / mass).clip(0.1)
    order = np.argsort(means)
    return tuple(
        Component(round(float(shares[k]), 4), round(float(np.exp(means[k])), 1), round(float(spreads[k]), 3))
        for k in order
    )


if __name__ == "__main__":
    from powerflow.trace.read import read_trace

    print(fit_profile(read_trace(sys.argv[1], tz=sys.argv[2] if len(sys.argv) > 2 else None), "name", sys.argv[1]))
