"""Convert results to tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from powerflow import units
from powerflow.report import rows, words
from powerflow.report.headline import headline
from powerflow.simulate.comparison import Comparison, Metrics

#: Terminal width for the whole table; a narrower terminal shows `NARROW_COLUMNS` only.
WIDE = 145
NARROW_COLUMNS = ("mean JCT", "p99 JCT", "wait", "energy", "vs prices", "vs bound")
#: Columns with their interval on the terminal; the page and ``--json`` show all intervals.
WITH_INTERVAL = ("mean JCT", "vs prices", "vs bound")


def comparison_table(comparison: Comparison, width: int) -> Group:
    """Return the table of all policies at equal energy, with one block for each energy level, and a headline under it.

    Args:
        comparison: The comparison to show.
        width: Width of the terminal in characters. Below `WIDE`, only the main columns of the table are shown.
    """
    data = rows.equal_energy(comparison)
    wide = width >= WIDE
    kept = [i for i, (head, _) in enumerate(data.columns) if wide or head in NARROW_COLUMNS]
    title = Text(words.without_folders(comparison.title))
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    heads = [f"{level.share} · {level.energy}" for level in data.levels]
    table.add_column("policy", no_wrap=True, min_width=max((len(head) for head in heads), default=0))
    for i in kept:
        head, unit = data.columns[i]
        table.add_column(f"{head}\n{unit}" if unit else head, justify="right", no_wrap=True)
    exact = [wide and data.columns[i][0] in WITH_INTERVAL for i in kept]
    for head, level in zip(heads, data.levels, strict=True):
        table.add_row(head, style="bold")
        for line in level.lines:
            cells = [_text(line.cells[i], interval) for i, interval in zip(kept, exact, strict=True)]
            table.add_row(Text(line.policy), *cells, style="cyan" if line.ours else "")
        for policy in level.unable:
            table.add_row(Text(policy), "cannot", style="dim")
        table.add_section()
    notes = []
    if any(level.unable for level in data.levels):
        notes.append("cannot: every setting of this policy uses more energy")
    if not wide:
        notes.append("a wider terminal, --json and --report show every column")
    table.caption = "; ".join(notes) or None
    table.caption_justify = "left"
    return Group(table, Text(headline(comparison)))


def metrics_table(metrics: Metrics, title: str) -> Table:
    """Return a table with the metrics of one simulation, one metric per line."""
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(words.without_folders(title)), title_justify="left", show_header=False
    )
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("mean job completion time", units.duration(metrics.jct_mean_s)),
        ("  weighted by priority", units.duration(metrics.jct_weighted_s)),
        ("  p50", units.duration(metrics.jct_p50_s)),
        ("  p99", units.duration(metrics.jct_p99_s)),
        ("mean wait", units.duration(metrics.wait_mean_s)),
        ("mean slowdown", f"{units.significant(metrics.slowdown_mean)} ×"),
        ("makespan", units.duration(metrics.makespan_s)),
        ("GPU-hours", units.significant(metrics.gpu_hours)),
        ("rescales per job", units.significant(metrics.rescales_per_job)),
        ("energy of the cluster", units.energy(metrics.energy_j)),
    ):
        table.add_row(name, value)
    return table


def _text(cell: rows.TableCell, interval: bool) -> str:
    return f"{cell.text} {cell.interval}" if interval and cell.interval else cell.text
