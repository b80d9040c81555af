"""Build reports as single HTML files with figures, tables and plotly.js, which need no other file and no network.

The same input gives the same bytes. So a report contains no time of day, no folders, no CPU times, and nothing from the
environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from powerflow import units
from powerflow.look.pages import base_css, environment
from powerflow.report import glossary, headline, plots, rows, series, words
from powerflow.simulate.comparison import Comparison
from powerflow.simulate.result import SimulationResult

TEMPLATES = Path(__file__).parent / "templates"


def render_comparison(comparison: Comparison) -> str:
    """Return a comparison of policies as one self-contained HTML page.

    The figures show completion time over energy (the frontiers) with the lower bound, the distribution of completion
    times, the cluster over time, and the GPUs of each job. After them come the table at equal energy, how the
    comparison was made, and a glossary. A figure without data is left out.
    """
    shown = comparison.showcase
    figures: dict[str, plots.Figure] = {"frontier": plots.frontier(comparison)} if _any_point(comparison) else {}
    figures |= _simulation_figures(shown, plots.strokes(comparison, shown))
    policies = list(dict.fromkeys(words.base_name(row.policy) for row in comparison.rows))
    return page(
        "comparison.html.j2",
        figures,
        title=comparison.title,
        headline=headline.headline(comparison),
        standfirst=headline.standfirst(comparison),
        key_figures=headline.key_figures(comparison),
        table=rows.equal_energy(comparison),
        shown=_shown(shown),
        view=_view(shown),
        facts=_joined(comparison.facts, headline.how_compared(comparison)),
        policies={words.label(p): glossary.POLICY_WORDS[p] for p in policies if p in glossary.POLICY_WORDS},
    )


def render_simulation(result: SimulationResult, facts: Mapping[str, str]) -> str:
    """Return one simulation as a self-contained HTML page.

    Args:
        result: The simulation.
        facts: How the simulation was made: label → words.
    """
    shown = {words.label(result.policy): result}
    return page(
        "simulation.html.j2",
        _simulation_figures(shown, plots.strokes(None, shown)),
        title=f"{words.label(result.policy)}: {len(result.jobs.ids)} jobs",
        headline=headline.simulation_headline(result),
        standfirst=headline.simulation_standfirst(result),
        key_figures=headline.simulation_figures(result),
        table=rows.by_class(result),
        shown=_shown(shown),
        view=_view(shown),
        facts=_joined(facts, headline.how_simulated(result)),
        policies={
            words.label(name): glossary.POLICY_WORDS[name]
            for name in [words.base_name(result.policy)]
            if name in glossary.POLICY_WORDS
        },
    )


def _simulation_figures(shown: Mapping[str, SimulationResult], strokes: list[plots.Look]) -> dict[str, plots.Figure]:
    """Return the figures about simulations: completion times, the cluster over time, and the GPUs of each job."""
    with_jobs = {name: result for name, result in shown.items() if result.jobs.ids}
    if not with_jobs:
        return {}
    until_s = _until_s(with_jobs)
    figures = {
        "completion": plots.completion_times(with_jobs, strokes),
        "over-time": plots.over_time(with_jobs, strokes, until_s),
    }
    for i, result in enumerate(shown.values()):
        if result.jobs.ids:
            figures[f"allocations-{i}"] = plots.allocations(result, until_s)
    return figures


def _until_s(shown: Mapping[str, SimulationResult]) -> float:
    return series.worth_showing_s([(result.jobs, result.end_s) for result in shown.values()])


def _view(shown: Mapping[str, SimulationResult]) -> str:
    """Return a sentence about what the figures over time leave out at their right end; "" if they show everything."""
    last_s = max((result.end_s for result in shown.values()), default=0.0)
    if _until_s(shown) >= last_s:
        return ""
    return f"The view ends when nearly all jobs are done; a few last until {units.duration(last_s)}."


def _shown(shown: Mapping[str, SimulationResult]) -> list[dict[str, Any]]:
    """Return the texts beside the figures of each simulation."""
    return [
        {
            "figure": f"allocations-{i}",
            "name": words.without_folders(name),
            "every": plots.every_how_many(result),
            "jobs": len(result.jobs.ids),
            "mean": units.duration(float(np.mean(result.jobs.jct_s))) if result.jobs.ids else units.NOTHING,
            "energy": units.energy(result.metered_j),
        }
        for i, (name, result) in enumerate(shown.items())
    ]


def _joined(given: Mapping[str, str], general: Mapping[str, str]) -> dict[str, str]:
    """Return the given facts, then the general facts whose labels are not among the given facts."""
    told = words.cleaned(given)
    return told | {name: what for name, what in general.items() if name not in told}


def _any_point(comparison: Comparison) -> bool:
    return bool(comparison.bound) or any(points for line in comparison.frontiers for points in line.hull.values())


def page(template: str, figures: Mapping[str, plots.Figure], **context: Any) -> str:
    """Return an HTML page from a template of this package, with its figures, style and script.

    ``context`` has the other values that the template uses.
    """
    context["title"] = words.without_folders(context["title"])
    context = {"glossary": glossary.GLOSSARY, "lang": "en", "how": "How it was computed", **context}
    return (
        environment(TEMPLATES)
        .get_template(template)
        .render(
            figures=figures,
            figures_json=Markup(_json_in_html(figures)),
            plotly_js=Markup(plotly_js() if figures else ""),
            style=Markup(base_css() + (TEMPLATES / "style.css").read_text("utf-8")),
            script=Markup((TEMPLATES / "page.js").read_text("utf-8")),
            **context,
        )
    )


def _json_in_html(value: object) -> str:
    """Return a value as JSON in which no HTML parser can find markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def plotly_js() -> str:
    """Return the plotly.js library from the plotly package, safe inside a ``script`` element."""
    return files("plotly").joinpath("package_data/plotly.min.js").read_text("utf-8").replace("</script", "<\\/script")
