"""Compute the content of the figure that shows energy against mean completion time.

Each seed gives another workload, which needs another amount of energy. To show all seeds in one figure, energies are
shares: each is divided by the energy of the reference (FIFO at maximum clock) on the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from powerflow import units
from powerflow.report.words import mean, subject_of
from powerflow.simulate.comparison import REFERENCE, Comparison


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of the figure: energy as a share of the reference's, mean completion time in seconds, and a text."""

    share: float
    seconds: float
    what: str


@dataclass(frozen=True, slots=True)
class Mark:
    """The mean completion time of one policy at one energy level, with its interval.

    ``share`` is the energy level. ``low_s`` and ``high_s`` are the ends of the interval; nan without an interval.
    """

    share: float
    seconds: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The results of one policy in the figure: one line for each seed, and one mark for each energy level.

    ``ours`` is True for the policy that the page is about.
    """

    policy: str
    ours: bool
    lines: Sequence[Sequence[Spot]]
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class Plane:
    """All content of the figure that shows energy against mean completion time.

    Attributes:
        curves: The curves of the policies, sorted by completion time at the highest energy level, slowest first.
        bound: The lower bound for the first seed.
        levels: Each energy level: its share of the energy of FIFO at maximum clock, and the same energy as text.
        low, high: Range of energy shares to show.
        low_s, high_s: Range of completion times to show, seconds.
    """

    curves: Sequence[Curve]
    bound: Sequence[Spot]
    levels: Sequence[tuple[float, str]]
    low: float
    high: float
    low_s: float
    high_s: float


def plane_of(comparison: Comparison) -> Plane:
    """Compute the figure of energy against mean completion time for a comparison."""
    references = references_j(comparison)
    whole_j = comparison.reference_j if comparison.reference_j > 0 else 1.0
    subject = subject_of(comparison)
    curves = []
    for frontier in comparison.frontiers:
        lines = [
            [
                Spot(
                    point.metrics.energy_j / references.get(seed, whole_j),
                    point.metrics.jct_mean_s,
                    f"{point.policy}, {point.knob}, seed {seed}, {units.energy(point.metrics.energy_j)}",
                )
                for point in points
            ]
            for seed, points in frontier.hull.items()
        ]
        marks = [
            Mark(row.level, jct.mean, jct.low, jct.high)
            for row in comparison.rows
            if row.policy == frontier.policy and row.metrics
            for jct in [row.metrics["jct_mean_s"]]
        ]
        curves.append(Curve(frontier.policy, frontier.policy == subject, lines, marks))
    first_j = next(iter(references.values()), whole_j)
    bound = [Spot(joules / first_j, seconds, "bound") for joules, seconds in comparison.bound]
    curves.sort(key=lambda curve: -(_at_highest(curve.policy, comparison)))
    levels = [(level, units.energy(level * comparison.reference_j)) for level in sorted(comparison.levels)]
    return Plane(curves, bound, levels, *_window(curves, bound, comparison.levels))


def references_j(comparison: Comparison) -> dict[int, float]:
    """Return the joules of the reference (FIFO at maximum clock) on each seed: seed → joules.

    The result is empty if FIFO is not among the compared policies.
    """
    found: dict[int, float] = {}
    for frontier in comparison.frontiers:
        for point in frontier.points if frontier.policy == REFERENCE else ():
            if point.policy == REFERENCE and point.metrics.energy_j > 0:
                found.setdefault(point.seed, point.metrics.energy_j)
    return found


def _at_highest(policy: str, comparison: Comparison) -> float:
    """Return the mean completion time of a policy at the highest energy level that it reaches, seconds.

    The result is 0 if the policy reaches no level.
    """
    met = [row for row in comparison.rows if row.policy == policy and row.metrics]
    return (mean(max(met, key=lambda row: row.level), "jct_mean_s") or 0.0) if met else 0.0


def _window(
    curves: Sequence[Curve], bound: Sequence[Spot], levels: Sequence[float]
) -> tuple[float, float, float, float]:
    """Return the ranges of energy shares and seconds to show.

    They surround the energy levels, and leave out points that are far away from all levels.
    """
    on_lines = [spot for curve in curves for line in curve.lines for spot in line]
    spots = [(mark.share, mark.seconds) for curve in curves for mark in curve.marks]
    spots = spots or [(spot.share, spot.seconds) for spot in on_lines]
    spots = [(x, y) for x, y in spots if math.isfinite(x) and math.isfinite(y) and y > 0] or [(1.0, 1.0)]
    shares = [*levels, *(x for x, _ in spots)]
    low, high = min(shares), max(shares)
    high = max(high, min(1.12 * high, max((spot.share for spot in on_lines), default=0.0)))
    margin = 0.1 * (high - low) or 0.05
    low, high = max(low - margin, 0.0), high + margin
    seconds = [y for _, y in spots]
    floor = [spot.seconds for spot in bound if low <= spot.share <= high and spot.seconds > 0]
    return low, high, min(seconds + floor) / 1.25, max(seconds) * 1.25


def ladder(low: float, high: float) -> list[tuple[float, str]]:
    """Return the ticks of a logarithmic axis from ``low`` to ``high``, and their labels.

    Ticks are at 1, 2, 5, 10, …. A short axis (up to about a factor of ten) has more ticks.
    """
    digits = (1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low > 2.5 else _fine()
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    return [(step, f"{step:,.6g}".replace(",", "\u202f")) for step in steps if low <= step <= high]


def _fine() -> tuple[float, ...]:
    return tuple(round(1 + 0.1 * i, 1) for i in range(90))
