"""Draw what was watched as tables that fit the width of the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from powerflow.cli.cluster.job_table import mark
from powerflow.cli.columns import Column, ranges
from powerflow.report.page_table import PageTable
from powerflow.units import HOUR_S, NOTHING, elapsed, energy_column, fixed, number_column, percent, power_column
from powerflow.watch.grouping import GroupBy
from powerflow.watch.summary import DEAREST

if TYPE_CHECKING:
    from powerflow.watch.owners import WatchedJob
    from powerflow.watch.present import Present, PresentJob
    from powerflow.watch.summary import JobRoom, UseLine, WatchSummary

Row = TypeVar("Row")


def present_columns(found: Present) -> list[Column[PresentJob]]:
    """Return the columns of the jobs that hold GPUs now."""
    emulated = mark(found.emulated)

    def energies(jobs: Sequence[PresentJob]) -> list[str]:
        texts = energy_column([job.energy_j for job in jobs])
        return [_with_doubt(text, job.energy_j, job.low_j, job.high_j) for text, job in zip(texts, jobs, strict=True)]

    def powers(jobs: Sequence[PresentJob]) -> list[str]:
        return [text + emulated * (text != NOTHING) for text in power_column([job.power_w for job in jobs])]

    return [
        Column("job", lambda job: job.id, least=8),
        Column("name", lambda job: job.name, spare=5, least=10),
        Column("user", lambda job: job.user, least=6),
        Column("account", lambda job: job.account, spare=6, least=6),
        Column("partition", lambda job: job.partition, spare=7, least=6),
        Column("GPUs", lambda job: len(job.gpus), right=True),
        Column("where", _where, spare=3, least=8),
        Column("power", lambda job: job.power_w, right=True, alike=powers),
        Column("busy", lambda job: job.utilisation, lambda job: _share(job.utilisation), right=True, spare=2),
        Column("MHz", lambda job: job.clock_mhz, lambda job: _whole(job.clock_mhz), right=True, spare=4),
        Column(
            "for", lambda job: found.time_s - job.start_s, lambda job: elapsed(found.time_s - job.start_s), right=True
        ),
        Column("energy", lambda job: job.energy_j, right=True, alike=energies),
        Column("note", _note, spare=1, least=8),
    ]


def _where(job: PresentJob) -> str:
    """Return a job's GPUs, node by node: ``n1:0-3 n2:7``."""
    nodes: dict[str, list[int]] = {}
    for gpu in job.gpus:
        nodes.setdefault(gpu.node, []).append(gpu.number)
    return " ".join(f"{node}:{ranges(numbers)}" for node, numbers in nodes.items())


def _note(job: PresentJob) -> str:
    words = []
    if job.idle:
        words.append("idle" if job.idle == len(job.gpus) else f"{job.idle} GPUs idle")
    if job.silent:
        words.append("no readings" if job.silent == len(job.gpus) else f"{job.silent} GPUs silent")
    if job.from_s is not None and job.from_s - job.start_s > 60.0:
        words.append("energy since it is watched")
    return ", ".join(words)


def _share(value: float | None) -> str:
    return NOTHING if value is None else percent(round(value, 2))


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _with_doubt(text: str, value: float | None, low: float | None, high: float | None) -> str:
    """Return an energy with its doubt where that is more than one percent: ``1.2 kWh −3 +5 %``."""
    if not value or low is None or high is None:
        return text
    down, up = 100 * (1 - low / value), 100 * (high / value - 1)
    return text if max(down, up) < 1 else f"{text} −{down:.0f} +{up:.0f} %"


@dataclass(frozen=True, slots=True)
class TableSection(Generic[Row]):
    """A table of what was watched, for the terminal and for the page.

    Attributes:
        title: Its title.
        rows, columns: What is in it.
        words: What else is to be said of it; "" for nothing.
    """

    title: str
    rows: Sequence[Row]
    columns: Sequence[Column[Row]]
    words: str = ""


def sections(summary: WatchSummary) -> list[TableSection[Any]]:
    """Return the tables of a summary."""
    by_job = summary.by is GroupBy.JOB
    others = [summary.nobody, *([summary.unknown] * (summary.unknown.measured_s > 0))]
    lines = [*summary.lines, summary.total, *others]
    partly = "* readings for a part of the held time only: that part's energy"
    found: list[TableSection[Any]] = [
        TableSection(
            f"Energy by {summary.by.value}",
            lines,
            _use_columns(summary, jobs=by_job),
            partly * any(line.partly for line in lines),
        )
    ]
    if not by_job and summary.dearest:
        found.append(TableSection("Jobs with the most energy", summary.dearest, _use_columns(summary, jobs=True)))
    if summary.rooms:
        more = len(summary.rooms) - DEAREST
        words = "modelled from their activity, not measured at the lower clock: a reason to try"
        words += f"; {more} more jobs with less energy are in --json" if more > 0 else ""
        found.append(
            TableSection("Jobs whose clock could go down", summary.rooms[:DEAREST], _room_columns(summary.rooms), words)
        )
    return found


def page_table(section: TableSection[Any]) -> PageTable:
    """Return a table as a page shows it, with all its columns."""
    cells = [[text.plain for text in column.texts(section.rows)] for column in section.columns]
    heads = [column.name for column in section.columns]
    texts = [not column.right for column in section.columns]
    return PageTable(section.title, section.words, heads, texts, [*zip(*cells, strict=True)])


def _use_columns(summary: WatchSummary, *, jobs: bool) -> list[Column[UseLine]]:
    """Return the columns of a summary; ``jobs`` is True if each line is a job."""

    def energies(lines: Sequence[UseLine]) -> list[str]:
        texts = energy_column([line.energy_j if line.measured_s > 0 else None for line in lines])
        marks = [
            mark(summary.emulated and text != NOTHING) + "*" * line.partly
            for text, line in zip(texts, lines, strict=True)
        ]
        return [text + after for text, after in zip(texts, marks, strict=True)]

    def amount(head: str, name: str, spare: int = 0, scale: float = 1.0) -> Column[UseLine]:
        def texts(lines: Sequence[UseLine]) -> list[str]:
            return [text.rstrip() for text in number_column([_known(line, name, scale) for line in lines], "")]

        return Column(head, lambda line: _known(line, name, scale), right=True, spare=spare, alike=texts)

    columns: list[Column[UseLine]] = [
        Column("job" if jobs else summary.by.value, lambda line: line.name or "(none)", least=10)
    ]
    if jobs:
        columns += [
            Column("name", lambda line: line.label, spare=4, least=10),
            Column("user", lambda line: line.user, spare=1, least=6),
            *_where_from([*summary.lines, *summary.dearest], lambda line: line.job),
        ]
    else:
        columns.append(Column("jobs", lambda line: line.jobs, right=True, spare=3))
    columns += [
        Column("GPU-hours", lambda line: line.held_s / HOUR_S, lambda line: fixed(line.held_s / HOUR_S, 1), right=True),
        Column("energy", lambda line: line.energy_j if line.measured_s > 0 else None, right=True, alike=energies),
        Column("±", lambda line: line.high_j - line.low_j, _doubt, right=True, spare=2),
    ]
    if summary.total.money is not None:
        columns.append(amount(f"cost {summary.currency}".rstrip(), "money"))
    if summary.total.co2_g is not None:
        columns.append(amount("kg CO2", "co2_g", spare=5, scale=1e-3))
    columns.append(Column("held idle", lambda line: line.idle_s, _idle, right=True))
    if summary.total.money is not None:
        columns.append(amount(f"idle {summary.currency}".rstrip(), "idle_money", spare=6))
    return columns


def _where_from(rows: Sequence[Row], job: Callable[[Row], WatchedJob | JobRoom | None]) -> list[Column[Row]]:
    """Return columns for account and partition of jobs; one that no job tells is left out."""

    def word(name: str) -> Callable[[Row], str]:
        return lambda row: getattr(job(row), name, "")

    found: list[Column[Row]] = [
        Column("account", word("account"), spare=7, least=8),
        Column("partition", word("partition"), spare=8, least=9),
    ]
    return [column for column in found if any(column.value(row) for row in rows)]


def _known(line: UseLine, name: str, scale: float) -> float | None:
    """Return an amount of a line; None without readings, or if it is not asked for."""
    value: float | None = getattr(line, name)
    return None if value is None or line.measured_s <= 0 else value * scale


def _doubt(line: UseLine) -> str:
    if line.energy_j <= 0:
        return NOTHING
    share = max(line.energy_j - line.low_j, line.high_j - line.energy_j) / line.energy_j
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _idle(line: UseLine) -> str:
    """Return the share of the held time that was idle; a dash where it is not known."""
    if line.judged_s <= 0:
        return NOTHING
    return percent(round(line.idle_s / line.judged_s, 3))


def _room_columns(rooms: Sequence[JobRoom]) -> list[Column[JobRoom]]:
    """Return the columns of jobs whose clock could go down."""

    def between(low: float, high: float) -> str:
        return f"{100 * low:.0f} to {100 * high:.0f} %"

    return [
        Column("job", lambda each: each.id, least=8),
        Column("name", lambda each: each.name, spare=2, least=10),
        Column("user", lambda each: each.user, spare=1, least=6),
        *_where_from(rooms, lambda each: each),
        Column("bound by", lambda each: each.room.bound_by),
        Column("SM", lambda each: each.room.sm_active, lambda each: percent(round(each.room.sm_active, 2)), right=True),
        Column("memory", lambda each: each.room.memory_active, _memory, right=True, spare=3),
        Column(
            "MHz",
            lambda each: each.room.clock_mhz,
            lambda each: f"{each.room.clock_mhz:.0f} → {each.room.lower_mhz:.0f}",
            right=True,
        ),
        Column("longer", lambda each: each.room.longer[1], lambda each: between(*each.room.longer), right=True),
        Column("saves", lambda each: each.room.saves[0], lambda each: between(*each.room.saves), right=True),
    ]


def _memory(each: JobRoom) -> str:
    value = each.room.memory_active
    return NOTHING if math.isnan(value) else percent(round(value, 2))
