"""Build the figures of a report as plain data for plotly.js; the script of the page draws them.

Colours are CSS variables (``var(--ink)``), for which the page has values. So one figure works in the light theme, in
the dark theme and in print. Text from traces and plug-ins is escaped, because plotly interprets markup in text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from powerflow import units
from powerflow.report import series
from powerflow.report.plane import Curve, Plane, ladder, plane_of
from powerflow.report.words import base_name, label, subject_of, time_unit
from powerflow.simulate.comparison import Comparison
from powerflow.simulate.result import SimulationResult

Figure = dict[str, Any]

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star", "pentagon", "hexagon")
#: Number of colours for policies other than the subject of the page; see the style sheet.
OTHER_COLOURS = 9
#: Number of classes of GPU counts in the figure of allocations: waiting, 1, 2–3, 4–7, …; the last has no upper end.
COUNT_CLASSES = 8


@dataclass(frozen=True, slots=True)
class Look:
    """The style of one policy in all figures of a page.

    Styles also differ in dashes, symbols and line widths, so that readers who cannot see colours can tell them apart.
    """

    colour: str
    dash: str
    symbol: str
    width: float


def looks(comparison: Comparison) -> dict[str, Look]:
    """Return a style for each policy of a comparison. The policy that the page is about stands out."""
    subject = subject_of(comparison)
    styled: dict[str, Look] = {}
    others = 0
    for policy in dict.fromkeys([f.policy for f in comparison.frontiers] + [r.policy for r in comparison.rows]):
        if policy == subject:
            styled[policy] = Look("var(--subject)", "solid", SYMBOLS[0], 3.0)
        else:
            colour = f"var(--series-{others % OTHER_COLOURS + 1})"
            styled[policy] = Look(colour, DASHES[(others + 1) % len(DASHES)], SYMBOLS[(others + 1) % len(SYMBOLS)], 1.6)
            others += 1
    return styled


# --- energy against completion time -----------------------------------------------------------------------------


def frontier(comparison: Comparison) -> Figure:
    """Draw mean completion time over energy: each policy's frontier, its means at the energy levels, and the lower
    bound.

    A frontier has one line for each seed. Means have intervals.
    """
    styled = looks(comparison)
    plane = plane_of(comparison)
    unit, size = time_unit([plane.low_s, plane.high_s])
    traces = [trace for curve in plane.curves for trace in _curve(curve, styled[curve.policy], unit, size)]
    traces += _bound(plane, unit, size)
    layout = base_layout(height=540, left=70)
    layout["xaxis"] |= {
        "title": {"text": "metered energy, against FIFO at maximum clock"},
        "range": [100 * plane.low, 100 * plane.high],
        "tickvals": _numbers(100 * share for share, _ in plane.levels),
        "ticktext": [f"{units.percent(share)}<br>{budget}" for share, budget in plane.levels],
    }
    layout["yaxis"] |= {
        "title": {"text": f"mean job completion time, {unit} (log scale)"},
        "type": "log",
        "range": [math.log10(plane.low_s / size), math.log10(plane.high_s / size)],
        **_ladder(plane.low_s / size, plane.high_s / size),
    }
    layout["legend"] = {"orientation": "v", "x": 1.01, "y": 0.95, "font": {"size": 12}, "tracegroupgap": 2}
    layout["margin"] |= {"r": 120, "b": 74}
    layout["shapes"] = [_vertical(100 * share, "var(--rule-strong)", "dot") for share, _ in plane.levels]
    return {"data": traces, "layout": layout}


def _bound(plane: Plane, unit: str, size: float) -> list[dict[str, Any]]:
    if not plane.bound:
        return []
    x = [100 * spot.share for spot in plane.bound]
    y = [spot.seconds / size for spot in plane.bound]
    floor = plane.low_s / size / 1e3
    fill = {
        "x": _numbers([*x, x[-1], x[0]]),
        "y": _numbers([*y, floor, floor]),
        "fill": "toself",
        "fillcolor": "var(--forbidden)",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    edge = {
        "x": _numbers(x),
        "y": _numbers(y),
        "name": "bound",
        "mode": "lines",
        "line": {"color": "var(--bound)", "width": 1.4},
        "hovertemplate": "no schedule can be below %{y:.3~r} " + unit + " at %{x:.3~r} %<extra>bound</extra>",
    }
    return [fill, edge]


def _curve(curve: Curve, look: Look, unit: str, size: float) -> list[dict[str, Any]]:
    name = html.escape(label(curve.policy))
    several = len(curve.lines) > 1
    shared = {"name": name, "legendgroup": name}
    line = {"color": look.colour, "width": look.width, "dash": look.dash}
    marker = {"color": look.colour, "symbol": look.symbol, "size": 9 if look.width > 2 else 7}
    lines = [
        shared
        | {
            "x": _numbers(100 * spot.share for spot in spots),
            "y": _numbers(spot.seconds / size for spot in spots),
            "text": [html.escape(spot.what) for spot in spots],
            "showlegend": False,
            "mode": "lines",
            "line": line | {"width": look.width / 2 if several else look.width},
            "opacity": 0.7 if several else 1.0,
            "hovertemplate": "%{text}<br>%{y:.3~r} " + unit + " at %{x:.3~r} %<extra></extra>",
        }
        for spots in curve.lines
    ]
    marks = shared | {
        "x": _numbers(100 * mark.share for mark in curve.marks),
        "y": _numbers(mark.seconds / size for mark in curve.marks),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _numbers(_finite(mark.high_s - mark.seconds) / size for mark in curve.marks),
            "arrayminus": _numbers(_finite(mark.seconds - mark.low_s) / size for mark in curve.marks),
            "color": look.colour,
            "thickness": 1.2,
            "width": 3,
        },
        "showlegend": False,
        "mode": "markers",
        "marker": marker,
        "hovertemplate": f"{name}: %{{y:.3~r}} {unit} at %{{x:.3~r}} %<extra>equal energy</extra>",
    }
    key = shared | {"x": [None], "y": [None], "mode": "lines+markers", "line": line, "marker": marker}
    return [*lines, marks, key]


def strokes(comparison: Comparison | None, shown: Mapping[str, SimulationResult]) -> list[Look]:
    """Return a line style for each simulation in the figures over time.

    A simulation has the colour of its policy, or an unused colour if another simulation has this one. The line of the
    policy that the page is about is solid; all other lines have different dashes.
    """
    styled = looks(comparison) if comparison else {}
    spare = [f"var(--series-{i})" for i in range(OTHER_COLOURS, 0, -1)]
    drawn: list[Look] = []
    for result in shown.values():
        look = styled.get(base_name(result.policy))
        taken = [one.colour for one in drawn]
        free = [colour for colour in spare if colour not in taken] or spare
        colour = look.colour if look and look.colour not in taken else "var(--subject)" if not styled else free[0]
        dash = "solid" if colour == "var(--subject)" else DASHES[1 + len(drawn) % (len(DASHES) - 1)]
        drawn.append(Look(colour, dash, SYMBOLS[0], 2.0))
    return drawn


# --- completion times -------------------------------------------------------------------------------------------


def completion_times(shown: Mapping[str, SimulationResult], strokes: Sequence[Look]) -> Figure:
    """Draw the share of jobs that are done over the time since their submission, one line for each simulation."""
    everything = np.concatenate([result.jobs.jct_s for result in shown.values()] or [np.empty(0)])
    finite = everything[np.isfinite(everything) & (everything > 0)]
    unit, size = time_unit([float(np.quantile(finite, 0.9))] if len(finite) else [units.HOUR_S])
    traces = []
    for i, (name, result) in enumerate(shown.items()):
        time_s, share = series.cumulative(result.jobs.jct_s)
        traces.append(
            {
                "x": _numbers(np.maximum(time_s, 1e-3) / size),
                "y": _numbers(share * 100, 4),
                "name": html.escape(name),
                "mode": "lines",
                "line": {"color": strokes[i].colour, "width": 2.2, "dash": strokes[i].dash, "shape": "hv"},
                "hovertemplate": "%{y:.0f} % of jobs done within %{x:.3~r} " + unit + "<extra>%{fullData.name}</extra>",
            }
        )
    layout = base_layout(height=400) | {"showlegend": len(shown) > 1}
    layout["xaxis"] |= {"title": {"text": f"completion time (waiting included), {unit} (log scale)"}, "type": "log"}
    if len(finite):
        low = max(float(np.quantile(finite, 0.005)), float(finite.max()) * 1e-6)
        high = float(finite.max()) * 1.1
        layout["xaxis"] |= {
            "range": [math.log10(low / size), math.log10(high / size)],
            **_ladder(low / size, high / size),
        }
    layout["yaxis"] |= {"title": {"text": "jobs done, %"}, "range": [0, 102]}
    return {"data": traces, "layout": layout}


# --- over time --------------------------------------------------------------------------------------------------


def over_time(shown: Mapping[str, SimulationResult], strokes: Sequence[Look], until_s: float) -> Figure:
    """Draw power, mean clock of the used GPUs, and number of jobs over time, in three panels with one time axis.

    Args:
        shown: Label → simulation.
        strokes: Line style of each simulation.
        until_s: Right end of the time axis at first, seconds; the user can scroll further.
    """
    unit, size = time_unit([until_s], long=True)
    peak_w = max((float(np.max(r.timeline.power_w, initial=0.0)) for r in shown.values()), default=0.0)
    power_unit, power_size = ("kW", 1e3) if peak_w >= 2e3 else ("W", 1.0)
    traces = []
    for i, (name, result) in enumerate(shown.items()):
        line = result.timeline
        end_s = result.end_s
        points = min(round(series.MOST_POINTS * max(end_s / until_s, 1.0)), 3 * series.MOST_POINTS)
        clock = np.where(np.isfinite(line.clock_mhz), line.clock_mhz, 0.0)
        busy = np.where(np.isfinite(line.clock_mhz), line.busy_gpus, 0).astype(np.float64)
        jobs = (line.running + line.waiting).astype(np.float64)
        panels = (
            ("y", series.step_means(line.time_s, line.power_w / power_size, end_s, points=points), power_unit),
            ("y2", series.step_means(line.time_s, clock, end_s, busy, points), "MHz"),
            ("y3", series.step_means(line.time_s, jobs, end_s, points=points), "jobs"),
        )
        for axis, (time_s, value), what in panels:
            traces.append(
                {
                    "x": _numbers(np.append(time_s, end_s) / size),
                    "y": _numbers(np.append(value, value[-1:])),
                    "yaxis": axis,
                    "name": html.escape(name),
                    "legendgroup": f"s{i}",
                    "showlegend": axis == "y",
                    "mode": "lines",
                    "line": {"color": strokes[i].colour, "width": 1.5, "dash": strokes[i].dash, "shape": "hv"},
                    "hovertemplate": f"%{{y:.4~r}} {what} at %{{x:.3~r}} {unit}<extra>%{{fullData.name}}</extra>",
                }
            )
    layout = base_layout(height=560) | {"showlegend": len(shown) > 1}
    panel = layout["yaxis"]
    layout["xaxis"] |= {"title": {"text": f"time, {unit}"}, "anchor": "y3", "range": [0, until_s / size]}
    layout["yaxis"] = panel | {"title": {"text": f"power, {power_unit}"}, "domain": [0.70, 1.0], "rangemode": "tozero"}
    layout["yaxis2"] = panel | {"title": {"text": "mean clock, MHz"}, "domain": [0.36, 0.64], **_clock_range(shown)}
    layout["yaxis3"] = panel | {"title": {"text": "jobs in system"}, "domain": [0.0, 0.30], "rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def _clock_range(shown: Mapping[str, SimulationResult]) -> dict[str, Any]:
    """Return an axis range around the used clocks; it is wide enough that a constant clock does not look like noise."""
    used = [clocks[np.isfinite(clocks)] for clocks in (result.timeline.clock_mhz for result in shown.values())]
    clocks = np.concatenate([*used, np.empty(0)])
    return {"range": [float(clocks.min()) * 0.92, float(clocks.max()) * 1.05]} if len(clocks) else {}


# --- GPUs per job -----------------------------------------------------------------------------------------------


def allocations(result: SimulationResult, until_s: float) -> Figure:
    """Draw the number of GPUs of each job over time as an image: one row per job.

    Each range of GPU counts (1, 2–3, 4–7, …) has its own colour.

    Args:
        result: The simulation.
        until_s: Right end of the time axis, seconds; several images can have the same time axis.
    """
    jobs = result.jobs
    shown, middle_s, held = series.allocation_raster(jobs, result.segments, until_s)
    unit, size = time_unit([until_s], long=True)
    classes = np.where(held > 0, np.floor(np.log2(np.maximum(held, 1))) + 1, held)
    classes = np.minimum(classes, COUNT_CLASSES - 1)
    most = int(np.nanmax(classes)) if np.isfinite(classes).any() else 0
    names = [html.escape(jobs.ids[job]) for job in shown]
    figure: Figure = {
        "data": [
            {
                "type": "heatmap",
                "x": _numbers(middle_s / size),
                "y": list(range(1, len(shown) + 1)),
                "z": [[None if math.isnan(cell) else int(cell) for cell in row] for row in classes],
                "text": names,
                "zmin": -0.5,
                "zmax": most + 0.5,
                "colorscale": _count_colours(most),
                "colorbar": {
                    "tickvals": list(range(most + 1)),
                    "ticktext": ["waits", *_count_labels(most)],
                    "title": {"text": "GPUs", "side": "top"},
                    "thickness": 12,
                    "outlinewidth": 0,
                    "len": 1.0,
                },
                "hoverongaps": False,
                "hoverinfo": "skip",
            }
        ],
        "layout": base_layout(height=min(120 + 3 * len(shown), 430) if len(shown) > 40 else 120 + 8 * len(shown)),
    }
    figure["layout"]["xaxis"] |= {"title": {"text": f"time, {unit}"}, "range": [0, until_s / size], "showgrid": False}
    figure["layout"]["yaxis"] |= {
        "title": {"text": "jobs, by submission"},
        "range": [len(shown) + 0.5, 0.5],
        "showticklabels": False,
        "ticks": "",
        "showgrid": False,
    }
    return figure


def every_how_many(result: SimulationResult) -> int:
    """Return k if the image of allocations shows only every k-th job; 1 if it shows all jobs."""
    return math.ceil(len(result.jobs.ids) / series.MOST_JOBS) or 1


def _count_colours(most: int) -> list[list[Any]]:
    """Return a colour scale with one colour for waiting jobs, and one colour for each range of GPU counts."""
    bands = most + 1
    scale: list[list[Any]] = []
    for band in range(bands):
        colour = "var(--waits)" if band == 0 else f"var(--count-{band})"
        scale += [[band / bands, colour], [(band + 1) / bands, colour]]
    return scale


def _count_labels(most: int) -> list[str]:
    """Return labels for the ranges of GPU counts: 1, 2–3, 4–7, …. The last possible range has no upper end."""
    labels = []
    for band in range(1, most + 1):
        low, high = 2 ** (band - 1), 2**band - 1
        labels.append(f"{low}+" if band == COUNT_CLASSES - 1 else str(low) if low == high else f"{low}–{high}")
    return labels


# --- shared -----------------------------------------------------------------------------------------------------


def base_layout(height: int, left: int = 62) -> dict[str, Any]:
    """Return the layout of a figure of this height in pixels, without titles."""
    axis = {
        "gridcolor": "var(--rule)",
        "linecolor": "var(--rule-strong)",
        "tickcolor": "var(--rule-strong)",
        "zeroline": False,
        "automargin": True,
    }
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "var(--sans)", "size": 12.5, "color": "var(--ink-soft)"},
        "margin": {"l": left, "r": 16, "t": 12, "b": 54},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "var(--card)", "bordercolor": "var(--rule-strong)", "font": {"color": "var(--ink)"}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--rule-strong)", "activecolor": "var(--ink)"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12.5}},
        "xaxis": axis | {"showgrid": False, "showline": True, "ticks": "outside", "ticklen": 4},
        "yaxis": dict(axis),
    }


def _vertical(x: float, colour: str, dash: str) -> dict[str, Any]:
    line = {"color": colour, "width": 1, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line, "layer": "below"}


def _ladder(low: float, high: float) -> dict[str, Any]:
    ticks = ladder(low, high)
    return {"tickvals": _numbers(value for value, _ in ticks), "ticktext": [text for _, text in ticks]}


def _numbers(values: Any, digits: int = 5) -> list[float | None]:
    """Round numbers to ``digits`` significant digits for JSON. A number that is not finite becomes None."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
