"""Show what a cluster used in a period as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from powerflow.report import period_text
from powerflow.report.html import page
from powerflow.report.page_table import PageTable
from powerflow.report.period_report import PeriodReport
from powerflow.report.period_words import text
from powerflow.report.poc_words import Language


def render_period(report: PeriodReport, tables: Sequence[PageTable], language: Language) -> str:
    """Return the report as one self-contained HTML page; the same input gives the same bytes.

    Args:
        report: The report.
        tables: Its tables, in the language.
        language: The language.
    """
    kind = "_emulated" if report.emulated else ""
    return page(
        "period.html.j2",
        {},
        title=period_text.title(report, language),
        headline=period_text.headline(report, language),
        standfirst=(" " if language is Language.EN else "").join(period_text.standfirst(report, language)),
        key_figures=period_text.key_figures(report, language),
        origin=text(f"origin{kind}", language),
        origin_words=text(f"origin_words{kind}", language),
        tables=tables,
        lists={
            text("savings", language): list(period_text.savings(report, language)),
            text("missing", language): [*period_text.missing(report, language), text("only_gpus", language)],
        },
        same=text("same", language),
        commands=period_text.same_numbers(report),
        facts=period_text.facts(report, language),
        how=text("how", language),
        lang=language.value,
        glossary={},
        policies={},
    )
