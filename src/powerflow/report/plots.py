"""The figures of a report, as plain plotly.js data: dictionaries in, drawn by the page itself.

Colours are names of CSS variables (``var(--ink)``), which the page resolves: one figure serves the light theme, the
dark theme and paper. Everything that a trace or a plug-in named is escaped, since plotly reads markup in its text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from powerflow.report import series, units
from powerflow.report.words import base_name, label, mean, subject_of, time_unit
from powerflow.simulate.comparison import Comparison
from powerflow.simulate.result import SimulationResult

Figure = dict[str, Any]

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star", "pentagon", "hexagon")
#: Colours of policies other than the one the page is about; see the style sheet.
OTHER_COLOURS = 9
#: Classes of GPU counts in the picture of allocations: waiting, then 1, 2–3, 4–7, … and the last "and more".
COUNT_CLASSES = 8


@dataclass(frozen=True, slots=True)
class Look:
    """How one policy is drawn, everywhere on the page: never told apart by colour alone."""

    colour: str
    dash: str
    symbol: str
    width: float


def looks(comparison: Comparison) -> dict[str, Look]:
    """A look for every policy of the comparison; the one the page is about stands out."""
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
    """Every policy's frontier (one line a seed), its equal-energy estimates with intervals, the levels, the bound."""
    styled = looks(comparison)
    window = _window(comparison)
    unit, size = time_unit([window.low_s, window.high_s])
    traces: list[dict[str, Any]] = []
    for line in sorted(comparison.frontiers, key=lambda line: _height(line.policy, comparison)):
        traces += _frontier_traces(line.policy, line.hull, comparison, styled[line.policy], size)
    if comparison.bound:
        traces += _bound_traces(comparison.bound, window.low_s, size)
    layout = _layout(height=520, left=70)
    layout["xaxis"] |= {
        "title": {"text": "metered energy of the whole cluster, kWh"},
        "range": [window.low_kwh, window.high_kwh],
    }
    layout["yaxis"] |= {
        "title": {"text": f"mean job completion time, {unit} (log scale)"},
        "type": "log",
        "range": [math.log10(window.low_s / size), math.log10(window.high_s / size)],
        **_ladder(window.low_s / size, window.high_s / size),
    }
    layout["legend"] = {"orientation": "v", "x": 1.01, "y": 1, "font": {"size": 12}, "tracegroupgap": 2}
    layout["margin"] |= {"r": 120, "t": 34}
    levels = [level for level in comparison.levels if level * comparison.reference_j > 0]
    layout["shapes"] = [
        _vertical(units.kwh(level * comparison.reference_j), "var(--rule-strong)", "dot") for level in levels
    ]
    layout["annotations"] = [
        _above(units.kwh(level * comparison.reference_j), units.percent(level)) for level in levels
    ]
    return {"data": traces, "layout": layout}


def _height(policy: str, comparison: Comparison) -> float:
    """Orders the legend as the lines lie: the slowest policy at the highest level first."""
    met = [row for row in comparison.rows if row.policy == policy and row.metrics]
    return -(mean(max(met, key=lambda row: row.level), "jct_mean_s") or 0.0) if met else 0.0


@dataclass(frozen=True, slots=True)
class _Window:
    low_kwh: float
    high_kwh: float
    low_s: float
    high_s: float


def _window(comparison: Comparison) -> _Window:
    """The part of the plane worth looking at: around the energy levels, not the far ends of a sweep."""
    hull = [point for line in comparison.frontiers for points in line.hull.values() for point in points]
    spots = [(row.budget_j, row.metrics["jct_mean_s"].mean) for row in comparison.rows if row.metrics]
    spots = spots or [(point.metrics.energy_j, point.metrics.jct_mean_s) for point in hull]
    spots = [(x, y) for x, y in spots if math.isfinite(x) and math.isfinite(y) and y > 0] or [(3.6e6, 1.0)]
    right = max((point.metrics.energy_j for point in hull), default=0.0)
    budgets = [level * comparison.reference_j for level in comparison.levels] + [x for x, _ in spots]
    low_j, high_j = min(budgets), max(*budgets, min(right, 1.15 * max(budgets)))
    span = (high_j - low_j) or max(high_j, 1.0) * 0.1
    low_j, high_j = max(low_j - 0.12 * span, 0.0), high_j + 0.08 * span
    floor = [y for x, y in comparison.bound if low_j <= x <= high_j and y > 0]
    low_s, high_s = min([y for _, y in spots] + floor), max(y for _, y in spots)
    return _Window(units.kwh(low_j), units.kwh(high_j), low_s / 1.25, high_s * 1.25)


def _bound_traces(bound: Sequence[tuple[float, float]], floor_s: float, size: float) -> list[dict[str, Any]]:
    x = [units.kwh(joules) for joules, _ in bound]
    y = [seconds / size for _, seconds in bound]
    floor = floor_s / size / 1e3
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
        "hovertemplate": "no schedule can be faster than %{y:.3g} at %{x:.4g} kWh<extra>bound</extra>",
    }
    return [fill, edge]


def _frontier_traces(
    policy: str, hull: Mapping[int, Sequence[Any]], comparison: Comparison, look: Look, size: float
) -> list[dict[str, Any]]:
    name = html.escape(label(policy))
    traces: list[dict[str, Any]] = []
    for seed, points in hull.items():
        traces.append(
            {
                "x": _numbers(units.kwh(point.metrics.energy_j) for point in points),
                "y": _numbers(point.metrics.jct_mean_s / size for point in points),
                "text": [html.escape(f"{point.policy}, {point.knob}, seed {seed}") for point in points],
                "name": name,
                "legendgroup": name,
                "showlegend": False,
                "mode": "lines",
                "line": {
                    "color": look.colour,
                    "width": look.width if len(hull) == 1 else look.width / 2,
                    "dash": look.dash,
                },
                "opacity": 1.0 if len(hull) == 1 else 0.7,
                "hovertemplate": "%{text}<br>%{y:.3g} at %{x:.4g} kWh<extra></extra>",
            }
        )
    met = [row for row in comparison.rows if row.policy == policy and row.metrics is not None]
    means = [row.metrics["jct_mean_s"] for row in met if row.metrics]
    marker = {"color": look.colour, "symbol": look.symbol, "size": 9 if look.width > 2 else 7}
    line = {"color": look.colour, "width": look.width, "dash": look.dash}
    dots = {
        "x": _numbers(units.kwh(row.budget_j) for row in met),
        "y": _numbers(m.mean / size for m in means),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _numbers(_finite(m.high - m.mean) / size for m in means),
            "arrayminus": _numbers(_finite(m.mean - m.low) / size for m in means),
            "color": look.colour,
            "thickness": 1.2,
            "width": 3,
        },
        "name": name,
        "legendgroup": name,
        "showlegend": False,
        "mode": "markers",
        "marker": marker,
        "hovertemplate": f"{name}: %{{y:.3g}} at %{{x:.4g}} kWh<extra>equal energy</extra>",
    }
    key = {"x": [None], "y": [None], "name": name, "legendgroup": name, "mode": "lines+markers"}
    return [*traces, dots, key | {"line": line, "marker": marker}]


def strokes(comparison: Comparison | None, shown: Mapping[str, SimulationResult]) -> list[Look]:
    """A look for every simulation that is pictured: its policy's colour, its own where that is taken or unknown.

    The subject's line is solid, the others are told apart by their dashes too.
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
    """Share of jobs that were done within a given time, one line per simulation."""
    everything = np.concatenate([result.jobs.jct_s for result in shown.values()] or [np.empty(0)])
    finite = everything[np.isfinite(everything) & (everything > 0)]
    unit, size = time_unit([float(np.median(finite))] if len(finite) else [3600.0])
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
                "hovertemplate": "%{y:.0f} % of jobs done within %{x:.3g} " + unit + "<extra>%{fullData.name}</extra>",
            }
        )
    layout = _layout(height=400) | {"showlegend": len(shown) > 1}
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


def over_time(shown: Mapping[str, SimulationResult], strokes: Sequence[Look]) -> Figure:
    """Power, mean clock of the GPUs in use, and jobs in the system; three panels over one time axis."""
    unit, size = time_unit([max((result.end_s for result in shown.values()), default=3600.0)], long=True)
    peak_w = max((float(np.max(r.timeline.power_w, initial=0.0)) for r in shown.values()), default=0.0)
    power_unit, power_size = ("kW", 1e3) if peak_w >= 2e3 else ("W", 1.0)
    traces = []
    for i, (name, result) in enumerate(shown.items()):
        line = result.timeline
        end_s = result.end_s
        clock = np.where(np.isfinite(line.clock_mhz), line.clock_mhz, 0.0)
        busy = np.where(np.isfinite(line.clock_mhz), line.busy_gpus, 0).astype(np.float64)
        panels = (
            ("y", series.step_means(line.time_s, line.power_w / power_size, end_s), power_unit),
            ("y2", series.step_means(line.time_s, clock, end_s, busy), "MHz"),
            ("y3", series.step_means(line.time_s, (line.running + line.waiting).astype(np.float64), end_s), "jobs"),
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
                    "hovertemplate": f"%{{y:.4g}} {what} at %{{x:.3g}} {unit}<extra>%{{fullData.name}}</extra>",
                }
            )
    layout = _layout(height=560) | {"showlegend": len(shown) > 1}
    panel = layout["yaxis"]
    layout["xaxis"] |= {"title": {"text": f"time since the first moment of the trace, {unit}"}, "anchor": "y3"}
    layout["yaxis"] = panel | {"title": {"text": f"power, {power_unit}"}, "domain": [0.70, 1.0], "rangemode": "tozero"}
    layout["yaxis2"] = panel | {"title": {"text": "mean clock, MHz"}, "domain": [0.36, 0.64], **_clock_range(shown)}
    layout["yaxis3"] = panel | {"title": {"text": "jobs in system"}, "domain": [0.0, 0.30], "rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def _clock_range(shown: Mapping[str, SimulationResult]) -> dict[str, Any]:
    """Room around the clocks that were used, so that a constant clock does not look like noise."""
    used = [clocks[np.isfinite(clocks)] for clocks in (result.timeline.clock_mhz for result in shown.values())]
    clocks = np.concatenate([*used, np.empty(0)])
    return {"range": [float(clocks.min()) * 0.92, float(clocks.max()) * 1.05]} if len(clocks) else {}


# --- who held how many GPUs -------------------------------------------------------------------------------------


def allocations(result: SimulationResult, end_s: float) -> Figure:
    """GPUs per job over time as a picture: a row is a job, a colour a class of GPU counts.

    Args:
        result: The simulation.
        end_s: Right end of the time axis, so that several pictures can share it.
    """
    jobs = result.jobs
    shown, middle_s, held = series.allocation_raster(jobs, result.segments, end_s)
    unit, size = time_unit([end_s], long=True)
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
        "layout": _layout(height=min(120 + 3 * len(shown), 430) if len(shown) > 40 else 120 + 8 * len(shown)),
    }
    figure["layout"]["xaxis"] |= {"title": {"text": f"time, {unit}"}, "range": [0, end_s / size], "showgrid": False}
    figure["layout"]["yaxis"] |= {
        "title": {"text": "jobs, by submission"},
        "range": [len(shown) + 0.5, 0.5],
        "showticklabels": False,
        "ticks": "",
        "showgrid": False,
    }
    return figure


def every_how_many(result: SimulationResult) -> int:
    """Of how many jobs one is shown in the picture of allocations; 1 when all are."""
    return math.ceil(len(result.jobs.ids) / series.MOST_JOBS) or 1


def _count_colours(most: int) -> list[list[Any]]:
    """A stepped colour scale: one band for waiting, one per class of GPU counts."""
    bands = most + 1
    scale: list[list[Any]] = []
    for band in range(bands):
        colour = "var(--waits)" if band == 0 else f"var(--count-{band})"
        scale += [[band / bands, colour], [(band + 1) / bands, colour]]
    return scale


def _count_labels(most: int) -> list[str]:
    """1, 2–3, 4–7, …; the last class of all is open."""
    labels = []
    for band in range(1, most + 1):
        low, high = 2 ** (band - 1), 2**band - 1
        labels.append(f"{low}+" if band == COUNT_CLASSES - 1 else str(low) if low == high else f"{low}–{high}")
    return labels


# --- shared -----------------------------------------------------------------------------------------------------


def _layout(height: int, left: int = 62) -> dict[str, Any]:
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


def _above(x: float, text: str) -> dict[str, Any]:
    font = {"size": 12, "color": "var(--ink-soft)"}
    return {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "text": text, "showarrow": False, "font": font}


def _ladder(low: float, high: float) -> dict[str, Any]:
    """Ticks 1, 2, 5, 10, … of a log axis; every digit where the axis spans less than a decade."""
    digits = (1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low > 2.5 else _fine()
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    ticks = [step for step in steps if low <= step <= high]
    return {"tickvals": _numbers(ticks), "ticktext": [f"{tick:,.6g}".replace(",", "\u202f") for tick in ticks]}


def _fine() -> tuple[float, ...]:
    return tuple(round(1 + 0.1 * i, 1) for i in range(90))


def _numbers(values: Any, digits: int = 5) -> list[float | None]:
    """Numbers as JSON can say them, to ``digits`` significant digits; what is not finite is None."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
