"""Show what was watched beside a site's own scheduler as one HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from powerflow.report.headline import KeyFigure
from powerflow.report.html import page
from powerflow.units import HOUR_S, NOTHING, energy, energy_column, fixed, number_column, percent
from powerflow.watch.grouping import GroupBy
from powerflow.watch.summary import DEAREST, JobRoom, UseLine, WatchSummary

_FACTS = {
    "energy": "Difference of each GPU's energy counter while a job held the GPU. Where the owner changes between two "
    "readings, the GPU's idle power is taken off, and the job has the rest.",
    "±": "What the readings before and after a change of the owner leave open; the truth nearly always lies inside.",
    "held idle": "Share of the time in which a job held GPUs on which nothing ran for 10 minutes and more.",
    "lower clocks": "Only the time in which the multiprocessors are active grows when their clock falls. Power above "
    "idle falls at least like the clock, and at most like its third power. Both together bound the change.",
}


#: Heads of columns that hold text; it stands on the left.
_TEXTS = ("name", "user", "bound by")


@dataclass(frozen=True, slots=True)
class _Grid:
    title: str
    words: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


def render_watched(summary: WatchSummary) -> str:
    """Return what was watched as one self-contained HTML page; the same input gives the same bytes."""
    total, nobody, unknown = summary.total, summary.nobody, summary.unknown
    span = f"{_day(summary.since_s)} to {_day(summary.until_s)}".replace("-", "\u2011")  # a date must not break
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
    others = [nobody, *([unknown] * (unknown.measured_s > 0))]
    grids = [
        _Grid(
            f"By {summary.by.value}",
            "",
            *_lines([*summary.lines, total, *others], summary, jobs=summary.by is GroupBy.JOB),
        )
    ]
    if summary.by is not GroupBy.JOB and summary.dearest:
        grids.append(_Grid("Jobs with the most energy", "", *_lines(summary.dearest, summary, jobs=True)))
    if summary.rooms:
        words = "Modelled from the activity of their GPUs, not measured at the lower clock: a reason to try."
        more = len(summary.rooms) - DEAREST
        words += f" {more} more jobs with less energy are not shown." if more > 0 else ""
        grids.append(_Grid("Jobs whose clock could go down", words, *_rooms(summary.rooms[:DEAREST])))
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
        grids=grids,
        texts=_TEXTS,
        notes=summary.notes,
        facts=_FACTS,
        glossary={},
        policies={},
    )


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).strftime("%Y-%m-%d %H:%M")


def _costs(line: UseLine, currency: str, what: str) -> list[KeyFigure]:
    found = []
    if line.money is not None:
        found.append(KeyFigure(f"{fixed(line.money, 2)} {currency}".rstrip(), f"cost of the energy {what}"))
    if line.co2_g is not None:
        found.append(KeyFigure(f"{fixed(line.co2_g / 1e3, 1)} kg", f"CO2 of the energy {what}"))
    return found


def _lines(lines: Sequence[UseLine], summary: WatchSummary, *, jobs: bool) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of a table; an energy that is not known is a dash."""
    known = [line.measured_s > 0 for line in lines]

    def only_known(values: Sequence[float | None], scale: float = 1.0) -> list[str]:
        scaled = [
            None if value is None or not is_known else value * scale
            for value, is_known in zip(values, known, strict=True)
        ]
        return [text.rstrip() for text in number_column(scaled, "")]

    columns: list[tuple[str, list[str]]] = [
        ("job" if jobs else summary.by.value, [line.name or "(none)" for line in lines])
    ]
    if jobs:
        columns += [("name", [line.label for line in lines]), ("user", [line.user for line in lines])]
    else:
        columns.append(("jobs", [str(line.jobs) for line in lines]))
    columns.append(("GPU-hours", [fixed(line.held_s / HOUR_S, 1) for line in lines]))
    columns.append(("energy", energy_column([line.energy_j if line.measured_s > 0 else None for line in lines])))
    columns.append(("±", [_doubt(line) for line in lines]))
    if summary.total.money is not None:
        columns.append((f"cost {summary.currency}".rstrip(), only_known([line.money for line in lines])))
    if summary.total.co2_g is not None:
        columns.append(("kg CO2", only_known([line.co2_g for line in lines], 1e-3)))
    columns.append(
        (
            "held idle",
            [percent(round(line.idle_s / line.judged_s, 3)) if line.judged_s > 0 else NOTHING for line in lines],
        )
    )
    if summary.total.money is not None:
        columns.append((f"idle {summary.currency}".rstrip(), only_known([line.idle_money for line in lines])))
    return [head for head, _ in columns], [list(cells) for cells in zip(*(cells for _, cells in columns), strict=True)]


def _doubt(line: UseLine) -> str:
    if line.energy_j <= 0:
        return NOTHING
    return f"{100 * max(line.energy_j - line.low_j, line.high_j - line.energy_j) / line.energy_j:.1f} %"


def _rooms(rooms: Sequence[JobRoom]) -> tuple[list[str], list[list[str]]]:
    heads = ["job", "name", "user", "bound by", "SM active", "memory active", "MHz", "longer", "saves"]
    lines = []
    for each in rooms:
        room = each.room
        memory = NOTHING if math.isnan(room.memory_active) else percent(round(room.memory_active, 2))
        bounds = [f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in (room.longer, room.saves)]
        clocks = f"{room.clock_mhz:.0f} → {room.lower_mhz:.0f}"
        lines.append(
            [each.id, each.name, each.user, room.bound_by, percent(round(room.sm_active, 2)), memory, clocks, *bounds]
        )
    return heads, lines
