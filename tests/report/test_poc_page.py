"""The page of `powerflow poc`: the answer first, in both languages, and names of others stay text."""

from __future__ import annotations

import math
import string
from dataclasses import replace

import pytest

from powerflow.report.poc import poc_page, refusal_line, render_poc
from powerflow.report.poc_words import Language, text, texts
from powerflow.report.replay import Rates
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.poc.poc import Poc, Refusal, poc
from tests.poc.made_up_site import BELIEVED, CLUSTER, site_trace, truth_of
from tests.report.test_html import EVIL, Page

TRACE = site_trace()
PRICE = Rates(31.0, 430.0)


@pytest.fixture(scope="module")
def answer() -> Poc:
    measured = truth_of(TRACE, 1).measured()
    return poc(TRACE, CLUSTER, measured, high=["qos=high"], believed=BELIEVED, draws=3, processes=1)


def html(answer: Poc, language: Language = Language.EN, *, emulated: bool = False) -> str:
    found = poc_page(answer, PRICE, cluster=CLUSTER, currency="JPY", emulated=emulated, language=language)
    return render_poc(found, language)


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_both_languages_are_complete() -> None:
    same = {key for key, (english, japanese) in texts().items() if english == japanese}
    assert same == {"head_what", "step_observe", "step_shadow", "step_canary", "step_enforce"}, "names of stages"
    for key, (english, japanese) in texts().items():
        assert fields(english) == fields(japanese), key
        assert english.isascii() or not any("\u3000" <= mark <= "\u9fff" for mark in english), key
        if key not in same and key != "range":
            assert any("\u3040" <= mark <= "\u9fff" for mark in japanese), key
    assert text("hours", Language.JA, value=3) == "3時間"


@pytest.mark.parametrize(
    ("days", "english", "japanese"),
    [
        (0.0889, "2 h 8 min", "2時間8分"),
        (1.5, "36 h", "36時間"),
        (8.0, "8 days", "8日"),
        (12.345, "12.3 days", "12.3日"),
        (270 / 86400, "4 min 30 s", "4分30秒"),
        (0.0, "0 s", "0秒"),
    ],
)
def test_lengths_of_time_are_written_as_people_write_them(
    answer: Poc, days: float, english: str, japanese: str
) -> None:
    short = replace(answer, days=days, refusals=[Refusal("days", days)])
    english = english.replace(" ", "\u00a0")
    assert poc_page(short, PRICE, cluster=CLUSTER).title == f"40 jobs in {english} on {CLUSTER}"
    assert f"the log covers {english}, less than 7 days" in refusal_line(short)[0]
    assert f"{japanese}間のジョブ40件" in poc_page(short, PRICE, cluster=CLUSTER, language=Language.JA).title


def test_important_jobs_are_protected_and_a_broken_promise_is_said(answer: Poc) -> None:
    kept, free = answer.scenarios
    assert kept.important_delay is not None
    late = replace(kept.important_delay, later_s=Estimate(5400.0, 3600.0, 7200.0))
    for delayed, said in (
        (0.0, "None of them would take"),
        (0.25, "(1 h 30 min on average over all of them, 1 h to 2 h)"),
    ):
        one = replace(kept, important_delay=late, important_delayed=delayed)
        page = Page(html(replace(answer, scenarios=[one, free]))).says().replace("\u00a0", " ")
        assert "with the protection that PowerFlow gives (priority: protected)" in page
        assert said in page


@pytest.mark.parametrize("language", list(Language))
def test_the_first_screen_is_the_answer(answer: Poc, language: Language) -> None:
    page = Page(html(answer, language))
    (root,) = [attributes for tag, attributes in page.elements if tag == "html"]
    assert root["lang"] == language.value
    said = page.says()
    kept = answer.scenarios[0]
    assert kept.rigid
    assert f"{kept.energy_j.low / 3.6e6:.3g}" in page.heading()
    assert f"{kept.energy_j.high / 3.6e6:.3g}" in page.heading()
    for key in ("origin", "savings", "reproduced", "high", "whom", "takes", "how", "fact_intervals"):
        assert text(key, language) in said
    for key in ("rigid_not", "refused", "missing", "high_unknown"):
        assert text(key, language) not in said
    assert "JPY" in said
    for user in ("ada", "bob", "eve", "kim"):
        assert user in said


def test_english_pages_have_no_japanese_and_the_reverse_is_not_half_english(answer: Poc) -> None:
    assert not any("\u3040" <= mark <= "\u9fff" for mark in Page(html(answer)).says())
    said = Page(html(answer, Language.JA)).says()
    for english in ("How it was computed", "unknown", "at least", "hours", "Measured", "jobs"):
        assert english not in said


def test_it_is_one_file_and_the_same_input_gives_the_same_bytes(answer: Poc) -> None:
    first = html(answer)
    assert first == html(answer)
    assert len(first.encode()) < 100_000
    assert "http" not in first.replace('http-equiv="Content-Security-Policy"', "")
    assert not [tag for tag, _ in Page(first).elements if tag in ("img", "link", "iframe")]


def test_names_of_others_stay_text(answer: Poc) -> None:
    kept, free = answer.scenarios
    change = replace(kept.changes[0], name=EVIL)
    hostile = replace(answer, scenarios=[replace(kept, changes=[change]), free], high=[EVIL])
    for language in Language:
        found = poc_page(hostile, PRICE, cluster=EVIL, currency=EVIL, language=language)
        page = Page(render_poc(found, language))
        assert not [tag for tag, _ in page.elements if tag in ("img", "b")]
        assert [tag for tag, _ in page.elements].count("script") == 2
        assert 'alert("x")' in page.says()


def test_without_a_certain_saving_it_says_so(answer: Poc) -> None:
    doubtful = Estimate(1e8, -1e8, 3e8)
    kept, free = answer.scenarios
    only_free = replace(answer, scenarios=[replace(kept, energy_j=doubtful), free])
    assert Page(html(only_free)).heading().startswith("If jobs may change their number of GPUs:")
    assert "no saving is certain" in Page(html(only_free)).says()
    none = replace(answer, scenarios=[replace(kept, energy_j=doubtful), replace(free, energy_j=doubtful)])
    assert Page(html(none)).heading() == "No saving of energy is certain with jobs done as early as today"
    nan = Estimate(math.nan, math.nan, math.nan)
    unknown = replace(kept, energy_j=nan, energy_share=nan, price_share=None, changes=[], important=None)
    page = Page(html(replace(answer, scenarios=[unknown, replace(free, energy_j=doubtful)])))
    assert "unknown" in page.says()
    assert "nothing is claimed for anybody" in page.says()


def test_at_least_where_the_ways_end_before(answer: Poc) -> None:
    kept, free = answer.scenarios
    bound = replace(answer, scenarios=[replace(kept, energy_reached=False, completion_reached=False), free])
    assert Page(html(bound)).heading().startswith("At least ")
    assert "at least" in Page(html(bound)).says()


def test_refused_pages_say_what_to_measure_for_how_long(answer: Poc) -> None:
    reasons = [
        Refusal("days", 3.2),
        Refusal("measured", 0.31),
        Refusal("starts", 0.0),
        Refusal("reproduced", 0.25),
        Refusal("factor", 3.1),
    ]
    refused = replace(answer, refusals=reasons, scenarios=(), energy=None)
    why, fix = (said.replace("\u00a0", " ") for said in refusal_line(refused))
    for words in ("3.2 days, less than 7 days", "31\u202f% of", "less than 50\u202f%", "off by 25\u202f%", "3.1 times"):
        assert words in why
    assert fix.count("7 days") == 5
    assert "\n" not in why + fix
    for language in Language:
        page = Page(html(refused, language))
        assert page.heading() == text("refused", language)
        assert text("missing", language) in page.says()
        assert "kWh" not in page.says().split(text("takes", language))[0]
    labelled = replace(answer, refusals=reasons[:1])
    assert Page(html(labelled)).heading().startswith("UNVALIDATED: ")
    assert Page(html(labelled, Language.JA)).heading().startswith("【未検証】")


def test_emulated_gpus_are_never_called_measured(answer: Poc) -> None:
    said = Page(html(answer, emulated=True)).says()
    assert "Emulated and modelled." in said
    assert "Measured:" not in said


def test_many_users_are_cut_in_the_middle(answer: Poc) -> None:
    kept, free = answer.scenarios
    many = [replace(kept.changes[0], name=f"user{i:02}") for i in range(14)]
    said = Page(html(replace(answer, scenarios=[replace(kept, changes=many), free]))).says()
    assert "4 more between them are not shown" in said
    assert "user04" in said
    assert "user05" not in said
    assert "user09" in said
