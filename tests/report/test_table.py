"""Tables for the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from powerflow.report.table import NARROW_COLUMNS, WIDE, comparison_table, metrics_table
from tests.report.factories import comparison, metrics, without


def printed(what: RenderableType, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return out.getvalue()


def test_a_wide_terminal_gets_every_column_uncut() -> None:
    text = printed(comparison_table(comparison(), WIDE), WIDE)
    assert "…" not in text
    heads = " ".join(text.split())
    for head in ("mean JCT", "p50 JCT", "p99 JCT", "wait", "slowdown", "makespan", "GPU-hours", "rescales", "energy"):
        assert head in heads
    assert "1.90 ±\u202f0.076" in text
    assert text.count("cannot") == 2 + 7 + 1
    assert "At 70\u202f% of FIFO's energy" in text


def test_a_narrow_terminal_gets_the_main_columns_uncut_and_is_told() -> None:
    text = printed(comparison_table(comparison(), 80), 80)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert all(head in text for head in NARROW_COLUMNS)
    assert "p50" not in text
    assert "wider terminal" in " ".join(text.split())


def test_markup_in_names_is_shown_not_obeyed() -> None:
    whole = comparison(["prices"])
    rows = [replace(row, policy="[red]x[/red]") for row in whole.rows]
    text = printed(comparison_table(without(whole, title="[bold]t", rows=rows), WIDE), WIDE)
    assert "[red]x[/red]" in text
    assert "[bold]t" in text


def test_an_empty_comparison_is_a_table_all_the_same() -> None:
    assert "nothing to compare" in printed(comparison_table(without(comparison(), rows=[], levels=[]), 80), 80)


@pytest.mark.parametrize("width", [60, 160])
def test_metrics_one_to_a_line(width: int) -> None:
    text = printed(metrics_table(metrics(7200, 3.6e8), "srtf on [x]"), width)
    assert "srtf on [x]" in text
    assert "100 kWh" in text
    assert "2 h" in text
