"""Draw the figures of a replay: what would have been saved, and how well the log is reproduced week by week."""

from __future__ import annotations

from typing import Any

from powerflow.report.plots import Figure, base_layout
from powerflow.report.words import time_unit
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.replay.queue import NAMES
from powerflow.simulate.replay.replay import Replay


def replay_figures(replay: Replay) -> dict[str, Figure]:
    """Return the figures of a replay by their names in the page; a figure without data is left out."""
    figures = {}
    if replay.savings is not None:
        figures["savings"] = _savings(replay)
    if replay.reproductions and sum(week.jobs > 0 for week in replay.reproductions[0].weeks) > 1:
        figures["weeks"] = _weeks(replay)
    return figures


def _savings(replay: Replay) -> Figure:
    """Draw the shares of energy and of completion time that each setting would have saved, with their intervals."""
    assert replay.savings is not None
    ways = replay.savings.ways
    names = [one.name for one in ways]
    drawn = base_layout(height=320)
    drawn["yaxis"] |= {"title": {"text": "saved, %"}, "zeroline": True, "zerolinecolor": "var(--rule-strong)"}
    drawn |= {"barmode": "group", "bargap": 0.35}
    traces = [
        _bars("energy", "var(--subject)", names, [one.energy_share for one in ways]),
        _bars("mean completion time", "var(--series-2)", names, [one.completion_share for one in ways]),
    ]
    return {"data": traces, "layout": drawn}


def _bars(name: str, colour: str, names: list[str], shares: list[Estimate]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": names,
        "y": [100 * share.mean for share in shares],
        "marker": {"color": colour},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [100 * (share.high - share.mean) for share in shares],
            "arrayminus": [100 * (share.mean - share.low) for share in shares],
            "color": "var(--ink-soft)",
        },
        "hovertemplate": f"%{{x}}: %{{y:.3~r}} % of {name} saved<extra></extra>",
    }


def _weeks(replay: Replay) -> Figure:
    """Draw the mean wait of each week, as logged and as the best discipline gives it."""
    best = replay.reproductions[0]
    weeks = [(number, week) for number, week in enumerate(best.weeks, 1) if week.jobs]
    unit, size = time_unit([value for _, week in weeks for value in (week.wait_logged_s, week.wait_s)])
    drawn = base_layout(height=300)
    drawn["xaxis"] |= {"title": {"text": "week of the log"}, "tickformat": "d", "dtick": max(1, len(best.weeks) // 12)}
    drawn["yaxis"] |= {"title": {"text": f"mean wait, {unit}"}, "rangemode": "tozero"}
    looks = (("in the log", "var(--ink)", "solid"), (f"by {NAMES[best.discipline]}", "var(--subject)", "dash"))
    waits = [week.wait_logged_s for _, week in weeks], [week.wait_s for _, week in weeks]
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [number for number, _ in weeks],
            "y": [value / size for value in values],
            "line": {"color": colour, "dash": dash, "width": 2},
            "hovertemplate": f"week %{{x}}: %{{y:.3~r}} {unit} {name}<extra></extra>",
        }
        for (name, colour, dash), values in zip(looks, waits, strict=True)
    ]
    return {"data": traces, "layout": drawn}
