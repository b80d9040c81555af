"""Convert results to table rows of text for the HTML page. For the terminal, `powerflow.report.table` does the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from powerflow import units
from powerflow.report import words
from powerflow.simulate.comparison import Comparison, EqualEnergyRow, Estimate
from powerflow.simulate.result import SimulationResult


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    ``field`` is the name of the metric and ``head`` the column head. ``size`` converts units: the metric is divided by
    it (3600 for a column in hours, if the metric is in seconds).
    """

    field: str
    head: str
    unit: str
    size: float = 1.0


@dataclass(frozen=True, slots=True)
class TableCell:
    """One number of a table as text, with its interval ("" if it has none).

    ``bar`` is the length of the bar in the cell, as a share of the longest bar, 0 to 1; None without a bar.
    """

    text: str
    interval: str = ""
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: the name of a policy (or of a kind of job) and its numbers.

    ``ours`` is True for the policy that the page is about.
    """

    policy: str
    ours: bool
    cells: list[TableCell]


@dataclass(frozen=True, slots=True)
class Level:
    """The lines of a table for one energy level: the policies, the fastest first.

    ``unable`` has the names of policies that need more energy than this level.
    """

    share: str
    energy: str
    lines: list[Line]
    unable: list[str]


@dataclass(frozen=True, slots=True)
class LevelTable:
    """A table with column heads (name, unit) and one group of lines for each energy level."""

    columns: list[tuple[str, str]]
    levels: list[Level]


def columns_of(comparison: Comparison) -> list[Column]:
    """Return the columns of the table at equal energy, with suitable units of time."""
    times = [words.mean(row, "jct_mean_s") for row in comparison.rows]
    unit, size = words.time_unit([value for value in times if value is not None])
    spans = [words.mean(row, "makespan_s") for row in comparison.rows]
    long_unit, long_size = words.time_unit([value for value in spans if value is not None], long=True)
    short = {"hours": "h", "days": "d"}
    unit, long_unit = short.get(unit, unit), short.get(long_unit, long_unit)
    return [
        Column("jct_mean_s", "mean JCT", unit, size),
        Column("jct_p50_s", "p50 JCT", unit, size),
        Column("jct_p99_s", "p99 JCT", unit, size),
        Column("wait_mean_s", "wait", unit, size),
        Column("slowdown_mean", "slowdown", "×"),
        Column("makespan_s", "makespan", long_unit, long_size),
        Column("gpu_hours", "GPU-hours", ""),
        Column("rescales_per_job", "rescales", "per job"),
        Column("energy_j", "energy", "kWh", units.J_PER_KWH),
    ]


def ordered(comparison: Comparison, level: float) -> list[EqualEnergyRow]:
    """Return the rows of one energy level, the fastest policy first.

    Policies that do not reach the level come last, in their given order.
    """
    here = [row for row in comparison.rows if row.level == level]
    return sorted(here, key=lambda row: jct if (jct := words.mean(row, "jct_mean_s")) is not None else math.inf)


def equal_energy(comparison: Comparison) -> LevelTable:
    """Return the table of all metrics of all policies at equal energy."""
    columns = columns_of(comparison)
    subject = words.subject_of(comparison)
    longest = max((words.mean(row, "jct_mean_s") or 0.0 for row in comparison.rows), default=0.0)
    levels = []
    for level in sorted(set(comparison.levels) | {row.level for row in comparison.rows}, reverse=True):
        lines = []
        for row in ordered(comparison, level):
            if row.metrics is None:
                continue
            cells = [cell(row.metrics.get(column.field), column.size) for column in columns]
            jct = words.mean(row, "jct_mean_s")
            cells[0] = TableCell(cells[0].text, cells[0].interval, jct / longest if jct and longest else None)
            cells += [cell(row.vs_prices), cell(row.vs_bound)]
            lines.append(Line(words.label(row.policy), row.policy == subject, cells))
        unable = [words.label(row.policy) for row in comparison.rows if row.level == level and row.metrics is None]
        budget = [row.budget_j for row in comparison.rows if row.level == level] or [level * comparison.reference_j]
        levels.append(Level(units.percent(level), units.energy(budget[0]), lines, unable))
    heads = [(column.head, column.unit) for column in columns] + [("vs prices", "×"), ("vs bound", "×")]
    return LevelTable(heads, levels)


def cell(estimate: Estimate | None, size: float = 1.0) -> TableCell:
    """Return an estimate, divided by ``size``, as text; a dash if it is None or its mean is not finite."""
    if estimate is None or not math.isfinite(estimate.mean):
        return TableCell(units.NOTHING)
    text = units.significant(estimate.mean / size)
    half = (estimate.high - estimate.low) / 2 / size
    return TableCell(text, f"±\u202f{units.significant(half, 2)}" if math.isfinite(half) and half > 0 else "")


#: Number of classes of jobs that have a line of their own.
MOST_CLASSES = 30


def by_class(result: SimulationResult) -> LevelTable:
    """Return a table of the jobs of one simulation, with one line for each class of jobs, most energy first.

    After `MOST_CLASSES` lines, all other classes share one line.
    """
    jobs = result.jobs
    names, member = np.unique(np.array(jobs.cost_class, dtype=object).astype(str), return_inverse=True)
    energy_j = np.bincount(member, jobs.energy_j, len(names)) if len(names) else np.empty(0)
    order = np.argsort(-energy_j, kind="stable")
    groups = [(str(names[k]), np.flatnonzero(member == k)) for k in order[:MOST_CLASSES]]
    if rest := len(order[MOST_CLASSES:]):
        groups.append((f"{rest} more classes", np.flatnonzero(np.isin(member, order[MOST_CLASSES:]))))
    lines = []
    for name, here in groups:
        jct_s = jobs.jct_s[here]
        ended = jct_s[np.isfinite(jct_s)]
        cells = [
            TableCell(f"{len(here)}"),
            TableCell(units.duration(float(ended.mean())) if len(ended) else units.NOTHING),
            TableCell(units.duration(float(np.median(ended))) if len(ended) else units.NOTHING),
            TableCell(units.significant(float(jobs.gpu_s[here].sum()) / units.HOUR_S)),
            TableCell(units.significant(float(jobs.rescales[here].mean()))),
            TableCell(units.significant(float(jobs.energy_j[here].sum()) / units.J_PER_KWH)),
        ]
        lines.append(Line(name, False, cells))
    if lines:
        idle = [*[TableCell("")] * 5, TableCell(units.significant(result.idle_j / units.J_PER_KWH))]
        lines.append(Line("idle: belongs to no job", False, idle))
    heads = [
        ("jobs", ""),
        ("mean JCT", ""),
        ("p50 JCT", ""),
        ("GPU-hours", ""),
        ("rescales", "per job"),
        ("energy", "kWh"),
    ]
    return LevelTable(heads, [Level("", "", lines, [])])
