from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy import registry
from powerflow.simulate.comparison import FrontierPoint, Metrics
from powerflow.simulate.frontier import Setting, Sweep, at_energy, finer_settings, first_settings, hull, natural_price
from tests.simulate.small import small_workload


def numbers(energy_j: float, jct_s: float) -> Metrics:
    return Metrics(jct_s, jct_s, jct_s / 2, jct_s * 4, 1.0, 2.0, 100.0, 5.0, 0.5, energy_j)


def points(pairs: Sequence[tuple[float, float]]) -> list[FrontierPoint]:
    return [FrontierPoint("p", str(i), 0, numbers(*pair)) for i, pair in enumerate(pairs)]


def pairs_of(front: Sequence[FrontierPoint]) -> list[tuple[float, float]]:
    return [(point.metrics.energy_j, point.metrics.jct_mean_s) for point in front]


def test_only_what_no_other_beats_counts() -> None:
    front = hull(points([(100, 10), (80, 12), (90, 13), (60, 20), (110, 10), (80, 12.5)]))
    assert pairs_of(front) == [(60, 20), (80, 12), (100, 10)]


def test_reads_off_between_two_neighbours() -> None:
    front = hull(points([(100, 10), (80, 12), (60, 20)]))
    middle = at_energy(front, 70)
    assert middle is not None
    assert middle.jct_mean_s == pytest.approx(16)
    assert middle.jct_p99_s == pytest.approx(64)
    assert middle.energy_j == pytest.approx(70)
    exact = at_energy(front, 80)
    assert exact is not None
    assert exact.jct_mean_s == 12


def test_a_policy_that_needs_less_leaves_the_rest() -> None:
    found = at_energy(hull(points([(100, 10), (80, 12)])), 150)
    assert found is not None
    assert (found.energy_j, found.jct_mean_s) == (100, 10)


def test_none_where_it_cannot_come_down() -> None:
    assert at_energy(hull(points([(100, 10), (80, 12)])), 79.9) is None
    assert at_energy([], 79.9) is None


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(1, 1e6)), min_size=1, max_size=12), st.floats(1, 1e9))
def test_never_better_than_what_was_run(pairs: list[tuple[float, float]], budget_j: float) -> None:
    front = hull(points(pairs))
    found = at_energy(front, budget_j)
    affordable = [jct_s for energy_j, jct_s in pairs if energy_j <= budget_j]
    if not affordable:
        assert found is None
        return
    assert found is not None
    assert found.energy_j <= budget_j * (1 + 1e-12)
    assert found.jct_mean_s <= min(affordable) * (1 + 1e-12)
    assert found.jct_mean_s >= min(jct_s for _, jct_s in pairs) * (1 - 1e-12)


def test_every_policy_begins_with_its_fastest() -> None:
    workload = small_workload(0)
    for name in registry.names():
        first = first_settings(name, workload, Sweep())
        for setting in first:
            registry.load(setting.policy)
        assert len({(setting.policy, setting.energy_price) for setting in first}) == len(first)
    assert [s.policy for s in first_settings("srtf", workload, Sweep(etas=(0.5,), clocks=3))] == [
        "srtf",
        "srtf+zeus:0.5",
        "srtf+clock:1065",
        "srtf+clock:705",
    ]
    (given,) = first_settings("srtf+clock:0.7", workload, Sweep())
    assert (given.policy, given.energy_price) == ("srtf+clock:0.7", 0.0)
    assert finer_settings("srtf+clock:0.7", [(given, numbers(100, 10))], [50.0], workload) == []


def test_turns_the_knob_finer_around_a_budget() -> None:
    workload = small_workload(0)
    tried = [
        (Setting("prices", 0.0, "", 0.0), numbers(100, 10)),
        (Setting("prices", 1e-3, "", 1e-3), numbers(80, 12)),
        (Setting("prices", 4e-3, "", 4e-3), numbers(60, 20)),
    ]
    (new,) = finer_settings("prices", tried, [70.0], workload)
    assert new.energy_price == pytest.approx(2e-3)
    (new,) = finer_settings("prices", tried, [90.0], workload)
    assert new.energy_price == pytest.approx(1e-3 / 4)
    assert finer_settings("prices", tried, [120.0], workload) == []


def test_turns_the_knob_further_for_less_energy_but_not_for_ever() -> None:
    workload = small_workload(0)
    tried = [(Setting("prices", 1e-3, "", 1e-3), numbers(80, 12))]
    (new,) = finer_settings("prices", tried, [70.0], workload)
    assert new.energy_price == pytest.approx(4e-3)
    top = 16 * natural_price(workload)
    assert finer_settings("prices", [(Setting("prices", top, "", top), numbers(80, 12))], [70.0], workload) == []


def test_the_bound_is_searched_as_far_as_prices_goes() -> None:
    workload = small_workload(0)
    settings = first_settings("prices", workload, Sweep())
    while more := finer_settings("prices", [(s, numbers(100, 100)) for s in settings], [1.0], workload):
        settings += more
    assert max(s.value for s in settings) == pytest.approx(max(Sweep().bound) * natural_price(workload))


def test_looks_past_fixed_clocks_for_the_etas_around() -> None:
    workload = small_workload(0)
    tried = [
        (Setting("srtf", 0.0, "", 0.0), numbers(100, 10)),
        (Setting("srtf+zeus:0.4", 0.0, "", 0.4), numbers(90, 11)),
        (Setting("srtf+clock:1185", 0.0, ""), numbers(80, 12)),
        (Setting("srtf+zeus:0.8", 0.0, "", 0.8), numbers(70, 13)),
    ]
    (new,) = finer_settings("srtf", tried, [85.0], workload)
    assert new.policy == "srtf+zeus:0.6"
