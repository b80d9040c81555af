"""Show the simulation of a site's log (a replay) in words and tables, for the terminal and as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from powerflow import units
from powerflow.look.key_figure import KeyFigure
from powerflow.report.html import page
from powerflow.report.replay_plots import replay_figures
from powerflow.report.words import cleaned, without_folders
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.replay.log import Match
from powerflow.simulate.replay.queue import NAMES
from powerflow.simulate.replay.replay import Replay
from powerflow.simulate.replay.savings import Saving, times

UNVALIDATED = "UNVALIDATED"

#: Description of the queueing disciplines (rules that start jobs) that the site may have used, in one line each.
DISCIPLINE_WORDS = {
    "fifo": "First in, first out: a job that does not fit blocks all later jobs.",
    "easy": "EASY backfilling, as in Slurm: a later job may start first if it does not delay the first waiting job.",
    "easy-limits": "EASY backfilling by the time limits of the log, as in Slurm, which does not know when jobs end.",
    "first-fit": "Every job that fits starts, in order of submission; large jobs wait until enough GPUs become free.",
}


@dataclass(frozen=True, slots=True)
class Rates:
    """The price and the emissions of a kilowatt-hour. None leaves a value out of the report.

    ``tariff_per_kwh`` is money in the reader's currency. ``carbon_g_per_kwh`` is grams of CO2.
    """

    tariff_per_kwh: float | None = None
    carbon_g_per_kwh: float | None = None

    def money(self, energy_j: Estimate) -> Estimate | None:
        """Return what an amount of energy costs in money; None if ``tariff_per_kwh`` is None."""
        return None if self.tariff_per_kwh is None else times(energy_j, self.tariff_per_kwh / units.J_PER_KWH)

    def co2_kg(self, energy_j: Estimate) -> Estimate | None:
        """Return the kilograms of CO2 that an amount of energy emits; None if ``carbon_g_per_kwh`` is None."""
        return None if self.carbon_g_per_kwh is None else times(energy_j, self.carbon_g_per_kwh / 3.6e9)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text with a title, column heads, and lines; the first cell of each line is the name of the line."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


def grids(replay: Replay, rates: Rates) -> list[Grid]:
    """Return all tables of a replay.

    A discipline is a model of the site's scheduler: a rule by which it starts jobs. The first table compares each
    discipline with the log. The second compares the best discipline with the log, week by week. The third shows the
    savings.
    """
    tables = []
    if replay.reproductions:
        best = replay.reproductions[0]
        heads = ("wait logged", "replayed", "off by", "utilisation logged", "replayed", "off by")
        tables.append(
            Grid(
                "How well is the log reproduced?",
                ("policy", *heads),
                [(one.discipline, *_match(one.whole)) for one in replay.reproductions],
            )
        )
        tables.append(
            Grid(
                f"The same by week, {NAMES[best.discipline]}",
                ("week", "jobs", *heads),
                [(f"{i}", f"{week.jobs:,}", *_match(week)) for i, week in enumerate(best.weeks, 1)],
            )
        )
    if replay.savings is not None:
        money = [] if rates.tariff_per_kwh is None else ["money"]
        co2 = [] if rates.carbon_g_per_kwh is None else ["CO2, kg"]
        label = f"{UNVALIDATED}: what" if replay.refusal else "What"
        tables.append(
            Grid(
                f"{label} PowerFlow would have saved of energy and of completion time (modelled; 95 % intervals)",
                ("setting", "λ, s/J", "energy, kWh", "energy, %", *money, *co2, "time, %", "time, h a job"),
                [_saving(one, rates) for one in replay.savings.ways],
            )
        )
    return tables


def _match(match: Match) -> tuple[str, ...]:
    waits = units.durations(match.wait_logged_s, match.wait_s)
    return (
        *waits,
        units.percent(match.wait_error),
        units.percent(match.utilisation_logged),
        units.percent(match.utilisation),
        units.percent(match.utilisation_error),
    )


def _saving(one: Saving, rates: Rates) -> tuple[str, ...]:
    money, co2_kg = rates.money(one.energy_j), rates.co2_kg(one.energy_j)
    return (
        one.name,
        units.prose(one.energy_price),
        between(times(one.energy_j, 1 / units.J_PER_KWH), rounded),
        between(times(one.energy_share, 100), rounded),
        *([] if money is None else [between(money, rounded)]),
        *([] if co2_kg is None else [between(co2_kg, rounded)]),
        between(times(one.completion_share, 100), rounded),
        between(times(one.completion_s, 1 / units.HOUR_S), rounded),
    )


def rounded(value: float) -> str:
    """Return a number as text with three digits, because results of a replay are not more exact."""
    text = units.prose(float(f"{value:.3g}"))
    return "0" if text == "-0" else text  # a small negative number rounds to -0


def between(estimate: Estimate, word: Callable[[float], str]) -> str:
    """Return an estimate and its interval as text: ``12 (10 to 14)``."""
    return f"{word(estimate.mean)} ({word(estimate.low)} to {word(estimate.high)})"


def verdict(replay: Replay) -> str:
    """Return a sentence that says if any model of the site's scheduler reproduced the log."""
    if replay.refusal is not None:
        claim = "no savings are reported" if replay.savings is None else f"the following is {UNVALIDATED}"
        return f"Not reproduced, so {claim}: {replay.refusal}."
    best = replay.reproductions[0]
    return (
        f"Reproduced: {NAMES[best.discipline]} is off by {units.percent(best.whole.wait_error)} of the mean wait and "
        f"{units.percent(best.whole.utilisation_error)} of the utilisation that were logged."
    )


def advice(replay: Replay, rates: Rates) -> str:
    """Return sentences that recommend a first energy price, with the estimated savings; "" without an estimate."""
    if replay.savings is None:
        return ""
    chosen = _recommended(replay)
    label = f"{UNVALIDATED}: " if replay.refusal else ""
    if chosen is None:
        return f"{label}No way to run PowerFlow certainly saves energy here without making jobs slower."
    kwh = between(times(chosen.energy_j, 1 / units.J_PER_KWH), rounded)
    money, co2_kg = rates.money(chosen.energy_j), rates.co2_kg(chosen.energy_j)
    extra = "" if money is None else f", {between(money, rounded)} in money"
    extra += "" if co2_kg is None else f", {between(co2_kg, rounded)} kg of CO2"
    price = units.prose(chosen.energy_price)
    hours = between(times(chosen.completion_s, 1 / units.HOUR_S), rounded)
    return (
        f"{label}Recommended to begin with: {chosen.name} (--lambda {price}). It would have saved "
        f"{kwh} kWh of about {rounded(replay.savings.site_j / units.J_PER_KWH)}{extra}, and {hours} hours of mean "
        f"completion time of {rounded(replay.savings.site_completion_s / units.HOUR_S)}. All numbers are modelled."
    )


def headline(replay: Replay) -> str:
    """Return one sentence for who reads no other: what would have been saved, or why nothing can be said."""
    chosen = _recommended(replay)
    if chosen is None:
        return advice(replay, Rates()) or verdict(replay)
    label = f"{UNVALIDATED}: " if replay.refusal else ""
    energy, time = (rounded(100 * share.mean) for share in (chosen.energy_share, chosen.completion_share))
    return f"{label}PowerFlow would have saved about {energy} % of the energy and {time} % of the time of a job"


def render_replay(replay: Replay, rates: Rates) -> str:
    """Return a replay as one self-contained HTML page; the same input gives the same bytes.

    The first screen is for who decides: what would have been saved, in how many kWh, money and hours, and in a figure.
    After it comes how well the log was reproduced, and what the model does not explain.
    """
    every = [Grid(without_folders(grid.title), grid.heads, grid.lines) for grid in grids(replay, rates)]
    saved = every[-1:] if replay.savings is not None else []
    standfirst = " ".join(part for part in (verdict(replay), advice(replay, rates)) if part)
    return page(
        "replay.html.j2",
        replay_figures(replay),
        title=replay.title,
        headline=headline(replay),
        standfirst=standfirst if standfirst != headline(replay) else "",
        key_figures=_key_figures(replay, rates),
        saved=saved,
        grids=every[: len(every) - len(saved)],
        misses=replay.misses,
        facts=cleaned(replay.facts),
        policies=DISCIPLINE_WORDS,
    )


def _key_figures(replay: Replay, rates: Rates) -> list[KeyFigure]:
    figures = []
    chosen = _recommended(replay)
    if chosen is not None:
        span = "in the span of the log"
        kwh = rounded(chosen.energy_j.mean / units.J_PER_KWH)
        money, co2_kg = rates.money(chosen.energy_j), rates.co2_kg(chosen.energy_j)
        figures.append(KeyFigure(f"{kwh} kWh", f"saved {span}"))
        figures += [] if money is None else [KeyFigure(rounded(money.mean), f"money saved {span}")]
        figures += [] if co2_kg is None else [KeyFigure(f"{rounded(co2_kg.mean)} kg", f"CO2 saved {span}")]
        figures.append(KeyFigure(f"{rounded(chosen.completion_s.mean / units.HOUR_S)} h", "less for a job, on average"))
    if replay.reproductions:
        error = units.percent(replay.reproductions[0].whole.error)
        figures.append(KeyFigure(error, "error of the reproduced log (10 % at most)"))
    return figures


def _recommended(replay: Replay) -> Saving | None:
    """Return what the recommended setting would have saved; None without savings or a recommendation."""
    if replay.savings is None:
        return None
    return next((one for one in replay.savings.ways if one.name == replay.savings.recommended), None)
