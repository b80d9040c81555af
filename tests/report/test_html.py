"""The pages: whole in one file, safe against what a trace may be called, the same bytes for the same input."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerflow.report import html
from powerflow.report.html import render_comparison, render_simulation
from tests.report.factories import comparison, simulation, without

EVIL = '</script><script>alert("x")</script><img src="http://evil.example/x.png" onerror="alert(1)">'
VOID = {"meta", "br", "img", "link", "input", "hr"}
LOADS = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "manifest"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, and that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "h1":
            self.headings.append(data)
        {"script": self.scripts, "style": self.styles}.get(inside, self.text).append(data)

    def says(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    def heading(self) -> str:
        return self.headings[0]

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


@pytest.fixture
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page without the five megabytes of plotly.js in it."""
    monkeypatch.setattr(html, "plotly_js", lambda: "/* plotly */")


def hostile_simulation() -> str:
    result = simulation(jobs=5, ids=[EVIL, "<b>", "&amp;", "var(--ink)", "\u2028]]>"])
    jobs = replace(result.jobs, cost_class=(EVIL,) * 5)
    return render_simulation(replace(result, policy=EVIL, jobs=jobs), {EVIL: EVIL})


def hostile_comparison() -> str:
    whole = comparison(jobs=4)
    frontiers = [replace(line, policy=EVIL) for line in whole.frontiers[:1]]
    rows = [replace(row, policy=EVIL) for row in whole.rows[:1]]
    showcase = {EVIL: simulation(EVIL, jobs=4, ids=[EVIL, "a", "b", "c"])}
    return render_comparison(
        without(whole, title=EVIL, facts={EVIL: EVIL}, frontiers=frontiers, rows=rows, showcase=showcase)
    )


def test_nothing_is_fetched_and_it_is_small_enough() -> None:
    text = render_comparison(comparison(jobs=600))
    assert len(text.encode()) < 8_000_000
    page = Page(text)
    for _, attributes in page.elements:
        for name in LOADS & attributes.keys():
            assert (attributes[name] or "").startswith("#")
    for style in page.styles:
        assert "url(" not in style
        assert "@import" not in style
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert any(len(script) > 1_000_000 for script in page.scripts)


@pytest.mark.usefixtures("small_library")
def test_a_comparison_says_what_it_found() -> None:
    page = Page(render_comparison(comparison()))
    said = page.says()
    found = "At 70\u202f% of FIFO's energy, PowerFlow's “prices” finishes jobs on average in 1.9 h; FIFO needs 5.46 h"
    assert found in page.heading()
    for words in ("Simulated.", "How it was computed", "16x8:A100", "frontier", "vs bound", "with every setting:"):
        assert words in said
    assert set(page.figures()) == {"frontier", "completion", "over-time", "allocations-0", "allocations-1"}


@pytest.mark.usefixtures("small_library")
@pytest.mark.parametrize("render", [hostile_simulation, hostile_comparison])
def test_names_from_a_trace_stay_text(render: Any) -> None:
    text = render()
    page = Page(text)
    assert not [tag for tag, _ in page.elements if tag in ("img", "b")]
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert 'alert("x")' in page.says()
    # plotly reads markup in its own text: there the name must be escaped once more
    assert "<script>alert(" not in json.dumps(page.figures(), ensure_ascii=False)
    assert "&lt;script&gt;" in json.dumps(page.figures())


@pytest.mark.usefixtures("small_library")
def test_same_input_same_bytes() -> None:
    assert render_comparison(comparison()) == render_comparison(comparison())
    result = simulation()
    slower = replace(result, cpu_s=result.cpu_s + 1)
    assert render_simulation(result, {"a": "b"}) == render_simulation(slower, {"a": "b"})


@pytest.mark.usefixtures("small_library")
def test_no_folder_of_this_machine_is_told() -> None:
    facts = {"trace": "read from /home/someone/logs/philly.csv.gz, 3 lines skipped", "rate": "5 iterations/s"}
    said = Page(render_simulation(simulation(jobs=3), facts)).says()
    assert "read from philly.csv.gz, 3 lines skipped" in said
    assert "5 iterations/s" in said
    assert "/home" not in said
    assert str(Path(__file__).parent) not in render_comparison(comparison())


DEGENERATE = {
    "one policy": lambda: comparison(["prices"]),
    "not ours": lambda: comparison(["fifo", "srtf"]),
    "one job": lambda: comparison(jobs=1),
    "one seed": lambda: comparison(seeds=1),
    "no bound": lambda: without(
        comparison(), bound=[], rows=[replace(row, vs_bound=None, vs_prices=None) for row in comparison().rows]
    ),
    "nobody reaches a level": lambda: without(
        comparison(), rows=[replace(row, metrics=None, vs_prices=None, vs_bound=None) for row in comparison().rows]
    ),
    "no rows": lambda: without(comparison(), rows=[], levels=[]),
    "no frontiers": lambda: without(comparison(), frontiers=[], bound=[]),
    "no showcase": lambda: without(comparison(), showcase={}),
    "no jobs": lambda: comparison(jobs=0),
    "no energy": lambda: without(comparison(), reference_j=0.0),
    "nothing": lambda: without(
        comparison(), frontiers=[], bound=[], rows=[], levels=[], facts={}, showcase={}, reference_j=0.0
    ),
}


@pytest.mark.usefixtures("small_library")
@pytest.mark.parametrize("case", DEGENERATE)
def test_little_input_still_makes_a_page(case: str) -> None:
    page = Page(render_comparison(DEGENERATE[case]()))
    said = page.says()
    assert len(page.heading()) > 20
    assert "nan" not in re.findall(r"[a-z]+", said.lower())
    assert "How it was computed" in said
    assert "inf" not in re.findall(r"[a-z]+", said.lower())


@pytest.mark.usefixtures("small_library")
@pytest.mark.parametrize("jobs", [0, 1, 2, 1000])
def test_a_simulation_of_any_size_makes_a_page(jobs: int) -> None:
    page = Page(render_simulation(simulation(jobs=jobs, gpus=256), {"jobs": str(jobs)}))
    assert "nan" not in re.findall(r"[a-z]+", page.says().lower())
    if jobs:
        z = page.figures()["allocations-0"]["data"][0]["z"]
        assert len(z) == min(jobs, 160)
    else:
        assert page.figures() == {}
        assert "No job was done" in page.heading()


@pytest.mark.usefixtures("small_library")
def test_a_job_that_never_ends_is_drawn_to_the_end_and_left_out_of_the_means() -> None:
    result = simulation(jobs=6)
    finish_s = result.jobs.finish_s.copy()
    finish_s[2] = np.nan
    page = Page(render_simulation(replace(result, jobs=replace(result.jobs, finish_s=finish_s)), {}))
    assert "5 jobs were done" in page.heading()
    assert "nan" not in re.findall(r"[a-z]+", page.says().lower())
