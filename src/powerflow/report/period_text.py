"""Say in sentences what a cluster used in a period, for the terminal and for the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from powerflow import units
from powerflow.look.key_figure import KeyFigure
from powerflow.report.period_report import PeriodReport
from powerflow.report.period_words import text
from powerflow.report.poc_words import Language


def title(report: PeriodReport, language: Language) -> str:
    """Return the title of the page."""
    return text("title", language, period=_name(report))


def headline(report: PeriodReport, language: Language) -> str:
    """Return the result in one line: energy, cost and CO2 of so many jobs."""
    jobs = report.total.jobs
    if not jobs and not report.total.energy_j:
        return text("nothing", language, period=_name(report))
    joint = ", " if language is Language.EN else "、"
    amounts = joint.join(value for value, _ in _amounts(report, language))
    return text("headline_one" if jobs == 1 else "headline", language, amounts=amounts, jobs=jobs, period=_name(report))


def standfirst(report: PeriodReport, language: Language) -> list[str]:
    """Return the sentences below the headline: whose jobs, which time, and how much idle GPUs drew."""
    period = report.period
    since, until = period.moment(period.since_s), period.moment(period.until_s)
    offsets = list(dict.fromkeys(each.isoformat()[-6:] for each in (since, until)))
    moments = [each.strftime("%Y-%m-%d\u00a0%H:%M").replace("-", "\u2011") for each in (since, until)]
    found = []
    if whose := _whose(report, language):
        found.append(text("whose", language, whose=", ".join(whose)))
    found.append(text("span", language, since=moments[0], until=moments[1], offset=" / ".join(offsets)))
    if not period.over:
        found.append(text("so_far", language))
    if report.idle is not None and report.idle.energy_j and report.total.energy_j:
        share = units.percent(report.idle.energy_j / report.total.energy_j)
        found.append(text("idle_share", language, share=share))
    return found


def key_figures(report: PeriodReport, language: Language) -> list[KeyFigure]:
    """Return the result in large numbers."""
    total, idle_s = report.total, report.idle.gpu_s if report.idle else 0.0
    found = [KeyFigure(value, text(key, language)) for value, key in _amounts(report, language)]
    found.append(KeyFigure(units.prose((total.gpu_s - idle_s) / units.HOUR_S, 4), text("key_hours", language)))
    if total.mean_jct_s is not None:
        words = text("key_jct", language, completed=total.completed)
        found.append(KeyFigure(units.duration(total.mean_jct_s), words))
    return found


def savings(report: PeriodReport, language: Language) -> Iterator[str]:
    """Say what PowerFlow saved, as far as that is known, and how well its predictions came true."""
    simulated, made = report.simulated, report.predictions
    if simulated is not None:
        yield text(
            "simulated",
            language,
            moment=report.period.moment(simulated.time_s).strftime("%Y-%m-%d %H:%M"),
            days=simulated.days,
            jobs=simulated.jobs,
            energy=_change(simulated.acted_j, simulated.asked_j, language),
            jct=_change(simulated.acted_jct_s, simulated.asked_jct_s, language),
        )
    if made.compared:
        energy, jct = (
            _change(made.would_j, made.asked_j, language),
            _change(made.would_jct_s, made.asked_jct_s, language),
        )
        yield text("compared", language, jobs=made.compared, energy=energy, jct=jct)
    if simulated is None and not made.compared:
        yield text("saved_part_unknown" if _filters(report) else "saved_unknown", language)
    yield text("managed_unknown", language)
    if not made.predicted:
        yield text("no_predictions", language)
        return
    used = units.kwh(made.used_j) + "ᵉ" * report.emulated
    kwh = {"predicted_kwh": units.kwh(made.predicted_j), "used_kwh": used}
    change = _change(made.used_j, made.predicted_j, language)
    yield text("predicted", language, predicted=made.predicted, completed=made.completed, change=change, **kwh)
    if made.within_energy is not None and made.within_time is not None:
        inside = {"energy": units.percent(made.within_energy), "time": units.percent(made.within_time)}
        yield text("judged", language, judged=made.judged, **inside)


def missing(report: PeriodReport, language: Language) -> Iterator[str]:
    """Say what is not known, and what makes numbers less than exact."""
    if not report.tariff:
        yield text("no_tariff", language)
    if not report.carbon:
        yield text("no_carbon", language)
    if report.total.unknown:
        yield text("unknown_jobs", language, jobs=report.total.unknown)
    if report.period.split_hours:
        yield text("split_hours", language)


def facts(report: PeriodReport, language: Language) -> dict[str, str]:
    """Say how the numbers were computed: label → words."""
    names = ("jobs", "border", "completed")
    found = {text(f"fact_{name}", language): text(f"fact_{name}_words", language) for name in names}
    if report.notes:
        words = [text("fact_signals_words", language), *(f"{note}." for note in report.notes)]
        found[text("fact_signals", language)] = " ".join(words)
    return found


def same_numbers(report: PeriodReport) -> list[str]:
    """Return commands that give the numbers of the tables, and the jobs whose completion times make the mean."""
    since, until = (
        report.period.moment(at_s).isoformat(timespec="seconds")
        for at_s in (report.period.since_s, report.period.until_s)
    )
    window = f"--since {since} --until {until}"
    groups = ["project" * (report.user is None), "user" * (report.project is None), "job"]
    only = [f" --{key} {shlex.quote(name)}" for key, name in _filters(report)]
    return [
        *(f"powerflow acct --by {group} {window}" for group in groups if group),
        f"powerflow history --state completed {window}{''.join(only)}",
    ]


def _amounts(report: PeriodReport, language: Language) -> Iterator[tuple[str, str]]:
    """Yield the energy, and cost and CO2 if they are known, each with the key of what it is."""
    total = report.total
    if total.energy_j is None:
        yield text("unknown", language), "key_energy"
        return
    yield units.energy(total.energy_j) + "ᵉ" * report.emulated, "key_energy"
    if total.cost is not None:
        yield f"{units.fixed(total.cost, 2)} {report.currency}".rstrip(), "key_cost"
    if total.co2_g is not None:
        yield f"{units.prose(total.co2_g / 1e3)} kg CO2", "key_co2"


def _name(report: PeriodReport) -> str:
    return report.period.name.replace("-", "\u2011")  # it must not break


def _whose(report: PeriodReport, language: Language) -> list[str]:
    return [text(f"whose_{key}", language, name=name) for key, name in _filters(report)]


def _filters(report: PeriodReport) -> list[tuple[str, str]]:
    given = {"project": report.project, "user": report.user}
    return [(key, name) for key, name in given.items() if name is not None]


def _change(now: float, before: float, language: Language) -> str:
    """Return a change in percent with its sign: ``-12.0 %``."""
    return text("unknown", language) if before <= 0 else f"{100 * (now / before - 1):+.1f}\u202f%"
