"""Show what PowerFlow would change at a site (`powerflow.simulate.poc`) on one page, for who decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from powerflow import units
from powerflow.look.key_figure import KeyFigure
from powerflow.report.html import page
from powerflow.report.poc_words import Language, MeasuredBy, text
from powerflow.report.replay import Grid, Rates, rounded
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.poc.families import WIDTH
from powerflow.simulate.poc.groups import GroupChange
from powerflow.simulate.poc.poc import LEAST_DAYS, LEAST_SHARE, Poc, Refusal, Scenario
from powerflow.simulate.replay.log import MOST_ERROR
from powerflow.simulate.replay.savings import times

#: Users shown at each end of the list.
_SHOWN = 5
#: From here on, a length of time is written in days, and without seconds.
_IN_DAYS_S, _IN_MINUTES_S = 2 * units.DAY_S, 600.0
_STEPS = ("watch", "observe", "shadow", "canary", "enforce")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: its title, sentences, and a table, if it has one; ``prose`` is True for a table of text."""

    title: str
    words: Sequence[str]
    grid: Grid | None = None
    prose: bool = False


@dataclass(frozen=True, slots=True)
class PocPage:
    """All texts of the page in one language, for HTML and for the terminal.

    Attributes:
        title: The log in a few words.
        headline: The answer in one sentence.
        standfirst: The sentences below it.
        key_figures: The answer in numbers.
        origin, origin_words: What is measured and what is modelled.
        sections: Tables and sentences.
        facts: How it was computed: label → words.
    """

    title: str
    headline: str
    standfirst: str
    key_figures: Sequence[KeyFigure]
    origin: str
    origin_words: str
    sections: Sequence[Section]
    facts: dict[str, str]


class _Writer:
    """Writes the texts of one answer in one language."""

    def __init__(self, poc: Poc, rates: Rates, currency: str, language: Language) -> None:
        self.poc, self.rates, self.currency, self.language = poc, rates, currency, language
        self.whole = self.time(poc.days * units.DAY_S)
        certain = [one for one in poc.scenarios if one.energy_j.low > 0]
        #: What the first screen is about: jobs as they are if that certainly saves energy, else jobs that may change.
        self.shown = next(iter([*certain, *poc.scenarios]), None)

    def say(self, key: str, **values: object) -> str:
        return text(key, self.language, **values)

    def span(self, estimate: Estimate, word: Callable[[float], str] = rounded) -> str:
        """Return the interval of an estimate: ``10 to 14``."""
        if not math.isfinite(estimate.low + estimate.high):
            return self.say("unknown")
        return self.say("range", low=word(estimate.low), high=word(estimate.high))

    def time(self, seconds: float) -> str:
        """Return a length of time as people write it, which no line break cuts: ``2 h 8 min``, ``12.5 days``."""
        if not math.isfinite(seconds):
            return self.say("unknown")
        whole, sign = round(abs(seconds)), "-" * (seconds < 0)
        if whole >= _IN_DAYS_S:
            return sign + _unbroken(self.say("days", value=rounded(whole / units.DAY_S)))
        if whole >= _IN_MINUTES_S:
            whole = 60 * round(whole / 60)
        hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
        parts = [(hours, "hours"), (minutes, "minutes"), (rest, "seconds")]
        words = [self.say(unit, value=number) for number, unit in parts if number]
        joint = " " if self.language is Language.EN else ""
        return sign * bool(words) + _unbroken(joint.join(words) or self.say("seconds", value=0))

    def value(self, estimate: Estimate, *, reached: bool = True, word: Callable[[float], str] = rounded) -> str:
        """Return an estimate and its interval: ``12 (10 to 14)``."""
        if not math.isfinite(estimate.mean):
            return self.say("unknown")
        mean = word(estimate.mean)
        mean = mean if reached else self.say("at_least", value=mean)
        return f"{mean} ({self.span(estimate, word)})"

    def of_site(self, energy_j: Estimate) -> Estimate:
        """Return joules as a share of what the whole cluster uses."""
        return times(energy_j, 1 / self.poc.site_j)

    # --- the first screen ---

    def headline(self) -> str:
        if self.shown is None:
            return self.say("refused")
        kwh = times(self.shown.energy_j, 1 / units.J_PER_KWH)
        if not kwh.low > 0:
            return self.unvalidated(self.say("no_saving"))
        key = "saves" + "_elastic" * (not self.shown.rigid) + "_least" * (not self.shown.energy_reached)
        return self.unvalidated(self.say(key, low=rounded(kwh.low), high=rounded(kwh.high), span=self.whole))

    def unvalidated(self, words: str) -> str:
        return self.say("unvalidated", words=words) if self.poc.refusals else words

    def standfirst(self) -> str:
        reasons = [self.why(refusal) for refusal in self.poc.refusals]
        if self.shown is None:
            return self.sentences(reasons)
        free = next(one for one in self.poc.scenarios if not one.rigid)
        other = []
        if self.shown is free:
            other = [self.say("rigid_not")]
        elif free.energy_j.low > 0:
            other = [self.say("elastic", kwh=self.kwh(free))]
        size = self.say("of_site", kwh=rounded(self.poc.site_j / units.J_PER_KWH))
        return self.sentences([*reasons, *other, size])

    def sentences(self, parts: Sequence[str] | Iterator[str]) -> str:
        """Join clauses and sentences."""
        stop = "." if self.language is Language.EN else "。"
        whole = [part[:1].upper() + part[1:] for part in parts]
        whole = [part if part.endswith(stop) else part + stop for part in whole]
        return (" " if self.language is Language.EN else "").join(whole)

    def kwh(self, one: Scenario) -> str:
        return self.value(times(one.energy_j, 1 / units.J_PER_KWH), reached=one.energy_reached)

    def key_figures(self) -> Iterator[KeyFigure]:
        one = self.shown
        if one is not None and math.isfinite(one.energy_j.mean):
            kwh = times(one.energy_j, 1 / units.J_PER_KWH)
            share = units.percent(self.of_site(one.energy_j).mean)
            yield KeyFigure(f"{rounded(kwh.mean)} kWh", self.say("key_energy", range=self.span(kwh), share=share))
            if (money := self.rates.money(one.energy_j)) is not None:
                words = f"{rounded(money.mean)} {self.currency}".rstrip()
                yield KeyFigure(words, self.say("key_money", range=self.span(money)))
            if (co2_kg := self.rates.co2_kg(one.energy_j)) is not None:
                yield KeyFigure(f"{rounded(co2_kg.mean)} kg", self.say("key_co2", range=self.span(co2_kg)))
        if one is not None and math.isfinite(one.completion_s.mean):
            words = self.say("key_time", range=self.span(one.completion_s, self.time))
            yield KeyFigure(self.time(one.completion_s.mean), words)
        if one is None:
            yield KeyFigure(units.percent(self.poc.matching.share), self.say("key_measured"))

    # --- refusals ---

    def why(self, refusal: Refusal) -> str:
        """Return a reason why the data do not carry an answer, as a clause."""
        words = {"days": lambda days: self.time(days * units.DAY_S), "factor": rounded}
        value = words.get(refusal.reason, units.percent)(refusal.value)
        least = units.percent(LEAST_SHARE) if refusal.reason == "measured" else rounded(LEAST_DAYS)
        return self.say(f"why_{refusal.reason}", value=value, least=least, most=units.percent(MOST_ERROR))

    def do(self, refusal: Refusal) -> str:
        """Return what to measure for how long, as a clause."""
        shift_s = self.poc.matching.shift_s
        if refusal.reason == "measured" and shift_s:
            return self.say("do_shift", shift=self.shift(shift_s))
        days = rounded(LEAST_DAYS)
        return self.say(f"do_{refusal.reason}", least=days, days=days)

    def shift(self, seconds: float) -> str:
        """Return a shift in time in words: ``9 h later``."""
        return self.say("later" if seconds > 0 else "earlier", value=self.time(abs(seconds)))

    # --- the sections ---

    def sections(self) -> Iterator[Section]:
        if self.poc.refusals:
            yield Section(self.say("missing"), [self.sentences(self.do(each) for each in self.poc.refusals)])
        if self.poc.scenarios:
            yield Section(self.unvalidated(self.say("savings")), [self.say("savings_words")], self.savings())
        yield Section(self.say("reproduced"), [self.say("reproduced_words")], self.reproduced())
        if self.shown is not None:
            case = self.say("if_rigid" if self.shown.rigid else "if_elastic")
            yield Section(self.say("high"), [*([case] * bool(self.poc.high)), *self.high(self.shown)])
            yield self.whom(self.shown, case)
        yield Section(self.say("takes"), [self.say("takes_words")], self.takes(), prose=True)

    def savings(self) -> Grid:
        currency = f", {self.currency}" if self.currency else ""
        heads = [self.say("head_jobs"), self.say("head_kwh", span=self.whole), self.say("head_share")]
        heads += [] if self.rates.tariff_per_kwh is None else [self.say("head_money", currency=currency)]
        heads += [] if self.rates.carbon_g_per_kwh is None else [self.say("head_co2")]
        heads += [self.say("head_time"), self.say("head_time_share")]
        lines = []
        for one in self.poc.scenarios:
            reached = one.energy_reached
            costs = [each(one.energy_j) for each in (self.rates.money, self.rates.co2_kg)]
            lines.append(
                [
                    self.say("rigid" if one.rigid else "may_change"),
                    self.kwh(one),
                    self.value(self.of_site(one.energy_j), reached=reached, word=units.percent),
                    *(self.value(cost, reached=reached) for cost in costs if cost is not None),
                    self.value(one.completion_s, reached=one.completion_reached, word=self.time),
                    self.value(one.completion_share, reached=one.completion_reached, word=units.percent),
                ]
            )
        return Grid(self.say("savings"), heads, lines)

    def reproduced(self) -> Grid:
        heads = [self.say(f"head_{name}") for name in ("what", "logged", "modelled", "off")]
        lines = []
        if self.poc.site.reproductions:
            whole = self.poc.site.reproductions[0].whole
            waits = (self.time(whole.wait_logged_s), self.time(whole.wait_s))
            lines.append([self.say("row_wait"), *waits, units.percent(whole.wait_error)])
            use = (units.percent(whole.utilisation_logged), units.percent(whole.utilisation))
            lines.append([self.say("row_use"), *use, units.percent(whole.utilisation_error)])
        if (check := self.poc.energy) is not None:
            kwh = [f"{rounded(each / units.J_PER_KWH)} kWh" for each in (check.measured_j, check.modelled_j)]
            lines.append([self.say("row_energy"), *kwh, units.percent(abs(check.miss))])
        return Grid(self.say("reproduced"), heads, lines)

    def high(self, one: Scenario) -> list[str]:
        """Return sentences about the jobs that the site calls important."""
        named = ", ".join(self.poc.high)
        if not named:
            return [self.say("high_unknown")]
        if one.price_share is None:
            return [self.say("whom_none")]
        if one.important is None:
            return [self.say("high_few", named=named)]
        later = one.important.later_s
        said = self.say(
            "high_words",
            jobs=one.important.jobs,
            named=named,
            change=self.shift(later.mean),
            range=self.span(later, self.time),
            share=units.percent(one.important_later),
        )
        return [said, self.kept(one)]

    def kept(self, one: Scenario) -> str:
        """Say whether the promise to protected jobs would be kept."""
        if one.important_delay is None or one.important_delayed == 0:
            return self.say("high_kept")
        late = one.important_delay.later_s
        share = units.percent(one.important_delayed)
        return self.say("high_broken", share=share, delay=self.time(late.mean), range=self.span(late, self.time))

    def whom(self, one: Scenario, case: str) -> Section:
        if one.price_share is None:
            return Section(self.say("whom"), [case, self.say("whom_none")])
        words = [case, self.say("whom_words", price=rounded(one.price_share))]
        shown = list(one.changes)
        if len(shown) > 2 * _SHOWN:
            words.append(self.say("others", count=len(shown) - 2 * _SHOWN))
            shown = [*shown[:_SHOWN], *shown[-_SHOWN:]]
        heads = [self.say(f"head_{name}") for name in ("user", "count", "today", "change")]
        return Section(self.say("whom"), words, Grid(self.say("whom"), heads, [self.change(each) for each in shown]))

    def change(self, each: GroupChange) -> list[str]:
        return [each.name, str(each.jobs), self.time(each.was_s), self.value(each.later_s, word=self.time)]

    def takes(self) -> Grid:
        columns = ("step", "install", "users", "learn")
        heads = [self.say(f"head_{name}") for name in columns]
        lines = [[self.say(f"{name}_{step}") for name in columns] for step in _STEPS]
        return Grid(self.say("takes"), heads, lines)

    def facts(self, measured_by: MeasuredBy) -> dict[str, str]:
        poc, found = self.poc, self.poc.matching
        policy = self.say(f"policy_{poc.site.discipline}")
        counts = {"matched": found.jobs, "runs": found.runs, "unmatched": found.unmatched}
        facts = {
            "log": self.sentences(
                [
                    self.say("fact_log_words", jobs=poc.jobs, span=self.whole, **counts),
                    *([] if measured_by is MeasuredBy.WATCH else [self.say(f"measured_{measured_by}")]),
                ]
            ),
            "site": self.say("fact_site_words", policy=policy),
        }
        if poc.energy is not None and poc.scenarios:
            factors = poc.energy.factors
            facts["models"] = self.say("fact_models_words", draws=len(factors), width=WIDTH)
            facts["scale"] = self.say(
                "fact_scale_words",
                low=rounded(float(factors.min())),
                high=rounded(float(factors.max())),
                error=units.percent(poc.energy.relative_error),
            )
            facts |= {name: self.say(f"fact_{name}_words") for name in ("equal", "intervals")}
        facts["outside"] = self.say("fact_outside_words")
        return {self.say(f"fact_{name}"): words for name, words in facts.items()}


def _unbroken(words: str) -> str:
    return words.replace(" ", "\u00a0")


def poc_page(
    poc: Poc,
    rates: Rates,
    *,
    cluster: str,
    currency: str = "",
    emulated: bool = False,
    measured_by: MeasuredBy = MeasuredBy.WATCH,
    language: Language = Language.EN,
) -> PocPage:
    """Return all texts of an answer in one language.

    Args:
        poc: The answer.
        rates: What a kilowatt-hour costs and emits.
        cluster: The cluster, as the user gave it.
        currency: Currency of the costs; "" if it is not known.
        emulated: True if the measured GPUs are emulated.
        measured_by: Where the measured joules come from.
        language: The language.
    """
    writer = _Writer(poc, rates, currency, language)
    kind = "_emulated" if emulated else ""
    return PocPage(
        writer.say("title", jobs=poc.jobs, span=writer.whole, cluster=cluster),
        writer.headline(),
        writer.standfirst(),
        list(writer.key_figures()),
        writer.say(f"origin{kind}"),
        writer.say(f"origin_words{kind}", jobs=poc.matching.jobs, share=units.percent(poc.matching.share)),
        list(writer.sections()),
        writer.facts(measured_by),
    )


def refusal_line(poc: Poc) -> tuple[str, str]:
    """Return in English why the data do not carry an answer, and what to measure, as two clauses."""
    writer = _Writer(poc, Rates(), "", Language.EN)
    reasons = ", and ".join(writer.why(each) for each in poc.refusals)
    return reasons, "; ".join(dict.fromkeys(writer.do(each) for each in poc.refusals))


def render_poc(found: PocPage, language: Language) -> str:
    """Return the page as one self-contained HTML file; the same input gives the same bytes."""
    return page(
        "poc.html.j2",
        {},
        title=found.title,
        headline=found.headline,
        standfirst=found.standfirst,
        key_figures=found.key_figures,
        origin=found.origin,
        origin_words=found.origin_words,
        sections=found.sections,
        facts=found.facts,
        how=text("how", language),
        lang=language.value,
        glossary={},
        policies={},
    )
