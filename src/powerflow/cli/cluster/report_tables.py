"""Columns of the report of a period, for the terminal, the page and the CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from powerflow.api.accounts import Account
from powerflow.cli.columns import Column
from powerflow.report.page_table import PageTable
from powerflow.report.period_report import PeriodLine, PeriodReport, completed_in, energy_of
from powerflow.report.period_words import text
from powerflow.report.poc_words import Language
from powerflow.units import HOUR_S, J_PER_KWH, NOTHING, elapsed, energy_column, fixed

#: Jobs in the table of those with the most energy.
TOP = 10

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class ReportTable(Generic[Row]):
    """A table of the report: its title, lines and columns, and what else is said of it ("" for nothing)."""

    title: str
    rows: Sequence[Row]
    columns: Sequence[Column[Row]]
    words: str = ""


def group_tables(report: PeriodReport, language: Language) -> list[ReportTable[PeriodLine]]:
    """Return the tables of projects and of users; each ends with idle GPUs and the total."""
    idle = [] if report.idle is None else [replace(report.idle, name=text("idle", language))]
    last = [*idle, replace(report.total, name=text("total", language))]

    def table(key: str, lines: Sequence[PeriodLine]) -> ReportTable[PeriodLine]:
        rows = [*(line if line.name else replace(line, name=text("none", language)) for line in lines), *last]
        head = Column(text(key, language), _name, least=10)
        return ReportTable(text(f"by_{key}", language), rows, [head, *_group_columns(report, language)])

    return [table("project", report.projects), table("user", report.users)]


def top_jobs(report: PeriodReport, language: Language) -> ReportTable[Account]:
    """Return the table of the jobs with the most energy."""
    more = len(report.jobs) - TOP
    words = text("more_jobs", language, more=more) if more > 0 else ""
    columns: list[Column[Account]] = [
        Column(text("job", language), lambda job: job.name, right=True),
        Column(text("name", language), lambda job: job.job_name or "", least=12),
        Column(text("user", language), lambda job: job.user or "", spare=4, least=8),
        Column(text("project", language), lambda job: job.project or "", spare=5, least=8),
        Column(text("state", language), lambda job: job.state or "", spare=3),
        *_amounts(report, language, report.line_of),
        Column(
            text("jct", language),
            lambda job: report.line_of(job).mean_jct_s,
            lambda job: _length(report.line_of(job).mean_jct_s),
            right=True,
            spare=2,
        ),
    ]
    return ReportTable(text("top_jobs", language), report.jobs[:TOP], columns, words)


def page_table(table: ReportTable[Row]) -> PageTable:
    """Return a table as a page shows it, with all its columns."""
    cells = [[each.plain for each in column.texts(table.rows)] for column in table.columns]
    heads = [column.name for column in table.columns]
    return PageTable(
        table.title, table.words, heads, [not column.right for column in table.columns], [*zip(*cells, strict=True)]
    )


def csv_columns(report: PeriodReport) -> list[Column[Account]]:
    """Return the columns of the CSV: full numbers, times in UTC, and nothing for what is not known."""

    def known(job: Account, value: float | None) -> float | None:
        return None if energy_of(job) is None else value

    def jct_s(job: Account) -> float | None:
        return report.line_of(job).mean_jct_s

    return [
        Column("id", lambda job: job.name),
        Column("name", lambda job: job.job_name),
        Column("user", lambda job: job.user),
        Column("project", lambda job: job.project),
        Column("state", lambda job: None if job.state is None else job.state.value),
        Column("submitted", lambda job: _iso(job.submitted_s)),
        Column("ended", lambda job: _iso(job.ended_s)),
        Column("completed", lambda job: int(completed_in(job, report.period))),
        Column("JCT_s", jct_s),
        Column("GPU-h", lambda job: job.gpu_s / HOUR_S),
        Column("J", energy_of),
        Column("kWh", lambda job: known(job, job.energy_j / J_PER_KWH)),
        Column("cost", lambda job: known(job, job.cost)),
        Column("currency", lambda job: report.currency),
        Column("CO2_g", lambda job: known(job, job.co2_g)),
        Column("emulated", lambda job: int(report.emulated)),
    ]


def _group_columns(report: PeriodReport, language: Language) -> list[Column[PeriodLine]]:
    total_j = report.total.energy_j or 0.0

    def share(line: PeriodLine) -> str:
        return f"{line.energy_j / total_j:.1%}" if total_j and line.energy_j is not None else NOTHING

    def count(value: Callable[[PeriodLine], int]) -> Callable[[PeriodLine], str]:
        return lambda line: f"{value(line):,}".replace(",", "\u202f") if line.jobs else NOTHING

    return [
        Column(text("jobs", language), lambda line: line.jobs, count(lambda line: line.jobs), right=True),
        Column(
            text("completed", language),
            lambda line: line.completed,
            count(lambda line: line.completed),
            right=True,
            spare=4,
        ),
        *_amounts(report, language, lambda line: line),
        Column(text("share", language), lambda line: line.energy_j, share, right=True, spare=3),
        Column(
            text("mean_jct", language),
            lambda line: line.mean_jct_s,
            lambda line: _length(line.mean_jct_s),
            right=True,
            spare=2,
        ),
    ]


def _amounts(report: PeriodReport, language: Language, of: Callable[[Row], PeriodLine]) -> list[Column[Row]]:
    """Return the columns of GPU-hours, energy, cost and CO2."""
    unknown = text("unknown", language)

    def energies(rows: Sequence[Row]) -> list[str]:
        lines = [of(row) for row in rows]
        texts = energy_column([line.energy_j for line in lines])
        marks = ["ᵉ" * report.emulated + "*" * bool(line.unknown) for line in lines]
        return [
            unknown if line.energy_j is None else words + mark
            for line, words, mark in zip(lines, texts, marks, strict=True)
        ]

    def amount(value: float | None, decimals: int) -> str:
        return unknown if value is None else fixed(value, decimals)

    found: list[Column[Row]] = [
        Column(
            text("hours", language),
            lambda row: of(row).gpu_s / HOUR_S,
            lambda row: fixed(of(row).gpu_s / HOUR_S, 2) if of(row).gpu_s else NOTHING,
            right=True,
            spare=1,
        ),
        Column(text("energy", language), lambda row: of(row).energy_j, right=True, alike=energies),
    ]
    if report.tariff:
        head = f"{text('cost', language)} {report.currency}".rstrip()
        found.append(Column(head, lambda row: of(row).cost, lambda row: amount(of(row).cost, 2), right=True))
    if report.carbon:
        found.append(
            Column(
                text("co2", language),
                lambda row: of(row).co2_g,
                lambda row: amount(_kg(of(row).co2_g), 3),
                right=True,
                spare=5,
            )
        )
    return found


def _name(line: PeriodLine) -> str:
    return line.name


def _kg(grams: float | None) -> float | None:
    return None if grams is None else grams / 1e3


def _length(seconds: float | None) -> str:
    return NOTHING if seconds is None else elapsed(seconds)


def _iso(unix_s: float | None) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
