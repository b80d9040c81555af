"""Show what was watched beside a site's own scheduler as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from powerflow.look.key_figure import KeyFigure
from powerflow.report.html import page
from powerflow.report.page_table import PageTable
from powerflow.units import energy, fixed, percent
from powerflow.watch.summary import UseLine, WatchSummary

_FACTS = {
    "energy": "Difference of each GPU's energy counter while a job held the GPU. Where the owner changes between two "
    "readings, the GPU's idle power is taken off, and the job has the rest.",
    "±": "What the readings before and after a change of the owner leave open; the truth nearly always lies inside.",
    "held idle": "Share of the time in which a job held GPUs on which nothing ran for 10 minutes and more.",
    "lower clocks": "Only the time in which the multiprocessors are active grows when their clock falls. Power above "
    "idle falls at least like the clock, and at most like its third power. Both together bound the change.",
}


def render_watched(summary: WatchSummary, tables: Sequence[PageTable]) -> str:
    """Return what was watched as one self-contained HTML page; the same input gives the same bytes."""
    total, nobody, unknown = summary.total, summary.nobody, summary.unknown
    span = f"{_day(summary.since_s)} to {_day(summary.until_s)}".replace("-", "\u2011")  # a moment must not break
    keys = [
        KeyFigure(energy(total.energy_j), f"drawn by {total.jobs} jobs"),
        *_costs(total, summary.currency, "of jobs"),
    ]
    if total.judged_s > 0:
        keys.append(KeyFigure(percent(round(total.idle_s / total.judged_s, 3)), "of held GPU time was idle"))
    if nobody.energy_j > 0:
        keys.append(KeyFigure(energy(nobody.energy_j), "drawn by GPUs that nobody held"))
    if unknown.energy_j > 0:
        keys.append(KeyFigure(energy(unknown.energy_j), "drawn by GPUs of an owner who is not known"))
    return page(
        "watched.html.j2",
        {},
        title="GPU energy beside your own scheduler",
        headline=f"{energy(total.energy_j)} in {total.jobs} jobs, {span}",
        standfirst="",
        key_figures=keys,
        origin="Emulated." if summary.emulated else "Measured.",
        origin_words="These GPUs are emulated: their energy comes from a model."
        if summary.emulated
        else "The energy on this page comes from the counters of the GPUs, or from their power where they have none; "
        "CPUs, memory and cooling are not in it.",
        tables=tables,
        notes=summary.notes,
        facts=_FACTS,
        glossary={},
        policies={},
    )


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).strftime("%Y-%m-%d\u00a0%H:%M")


def _costs(line: UseLine, currency: str, what: str) -> list[KeyFigure]:
    found = []
    if line.money is not None:
        found.append(KeyFigure(f"{fixed(line.money, 2)} {currency}".rstrip(), f"cost of the energy {what}"))
    if line.co2_g is not None:
        found.append(KeyFigure(f"{fixed(line.co2_g / 1e3, 1)} kg", f"CO2 of the energy {what}"))
    return found
