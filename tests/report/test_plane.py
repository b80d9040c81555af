"""The plane of energy and completion time, and its still picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace

import pytest

from powerflow.report.plane import plane_of
from powerflow.report.svg import HEIGHT, WIDTH, frontier_svg
from powerflow.simulate.comparison import Comparison, Frontier, FrontierPoint
from tests.report.factories import comparison, metrics, simulation, without


def test_each_seed_is_measured_by_its_own_reference() -> None:
    # seed 0 used 100 J, seed 1 used 1000 J with FIFO at maximum clock: 80 J and 800 J are both 80 %
    def point(policy: str, seed: int, joules: float) -> FrontierPoint:
        return FrontierPoint(policy, "", seed, metrics(60.0, joules))

    fifo = [point("fifo", 0, 100.0), point("fifo+clock:900", 0, 70.0), point("fifo", 1, 1000.0)]
    ours = {0: [point("prices", 0, 80.0)], 1: [point("prices", 1, 800.0)]}
    whole = without(
        comparison(),
        frontiers=[Frontier("fifo", fifo, {0: fifo[:1], 1: fifo[2:]}), Frontier("prices", [], ours)],
        reference_j=550.0,
        bound=[(90.0, 50.0)],
        rows=[],
    )
    plane = plane_of(whole)
    shares = {curve.policy: [line[0].share for line in curve.lines] for curve in plane.curves}
    assert shares == {"fifo": [1.0, 1.0], "prices": pytest.approx([0.8, 0.8])}
    assert plane.bound[0].share == pytest.approx(0.9)


def test_curves_lie_from_slow_to_quick_and_the_window_holds_the_levels() -> None:
    plane = plane_of(comparison())
    assert plane.curves[0].policy == "fifo"
    assert plane.curves[-1].policy == "prices"
    assert plane.low < 0.7
    assert plane.high > 1.0
    assert all(plane.low_s < mark.seconds < plane.high_s for curve in plane.curves for mark in curve.marks)


LITTLE: dict[str, Callable[[], Comparison]] = {
    "all": comparison,
    "one policy": lambda: comparison(["prices"]),
    "no rows": lambda: without(comparison(), rows=[], levels=[]),
    "no bound": lambda: without(comparison(), bound=[]),
    "nothing": lambda: without(comparison(), frontiers=[], rows=[], levels=[], bound=[], reference_j=0.0),
}


@pytest.mark.parametrize("case", LITTLE)
def test_the_picture_is_well_formed_and_inside_its_frame(case: str) -> None:
    whole = LITTLE[case]()
    text = frontier_svg(whole)
    assert text == frontier_svg(whole)
    root = ElementTree.fromstring(text)
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(policy.policy == "fifo" or policy.policy in str(names).lower() for policy in whole.frontiers[-1:])
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 <= float(element.attrib["x"]) <= WIDTH
        assert 0 <= float(element.attrib["y"]) <= HEIGHT + 30
    assert "nan" not in re.findall(r"[a-z]+", text)


def test_names_in_the_picture_are_text() -> None:
    whole = comparison(["prices", "fifo"])
    frontiers = [replace(line, policy="<script>&") for line in whole.frontiers]
    root = ElementTree.fromstring(frontier_svg(without(whole, title="<b>&", frontiers=frontiers)))
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert "<script>&" in "".join(root.itertext())


def test_a_long_tail_is_left_out_of_the_view_and_said() -> None:
    from powerflow.report.html import render_simulation

    result = simulation(jobs=200, gpus=2000)
    finish_s = result.jobs.finish_s.copy()
    finish_s[50] = 40 * 86_400.0
    late = replace(result, jobs=replace(result.jobs, finish_s=finish_s), end_s=40 * 86_400.0)
    assert "a few last until 40 days" in render_simulation(late, {})
    assert "a few last" not in render_simulation(result, {})
