from __future__ import annotations

import math
import multiprocessing
from dataclasses import fields, replace

import pytest

from powerflow.errors import InputError
from powerflow.simulate.bound.bound import bound_for
from powerflow.simulate.compare import compare, policies_for
from powerflow.simulate.comparison import Comparison, Metrics
from powerflow.simulate.experiment import Believed
from powerflow.simulate.frontier import Sweep, natural_price
from powerflow.simulate.world import World
from tests.simulate.small import small_workload

FEW = Sweep(prices=(0.0, 1e-1, 1.0), thresholds=(0.0, 1.0), etas=(0.5, 1.0), clocks=2, rounds=2, bound=(0.0, 0.25))
POLICIES = ("prices", "fifo", "srtf")


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return compare(small_workload, POLICIES, [0, 1], sweep=FEW, processes=1)


def without_cpu(comparison: Comparison) -> str:
    """All of a comparison as text, but for the time it took; numbers to the last bit."""
    shown = {label: replace(result, cpu_s=0.0) for label, result in comparison.showcase.items()}
    series = {
        label: (result.jobs.finish_s.tobytes(), result.timeline.power_w.tobytes(), result.metered_j)
        for label, result in shown.items()
    }
    return repr(replace(comparison, showcase={})) + repr(series)


def test_does_not_depend_on_processes(compared: Comparison) -> None:
    before = set(multiprocessing.active_children())
    again = compare(small_workload, POLICIES, [0, 1], sweep=FEW, processes=2)
    assert without_cpu(again) == without_cpu(compared)
    assert set(multiprocessing.active_children()) <= before, "processes are left behind"


def test_rows_are_by_level_then_policy(compared: Comparison) -> None:
    assert [(row.level, row.policy) for row in compared.rows] == [
        (level, policy) for level in (1.0, 0.9, 0.8, 0.7) for policy in POLICIES
    ]
    for row in compared.rows:
        assert row.budget_j == pytest.approx(row.level * compared.reference_j)


def test_the_reference_needs_all_of_its_energy(compared: Comparison) -> None:
    fifo = next(row for row in compared.rows if row.policy == "fifo" and row.level == 1.0)
    assert fifo.metrics is not None
    assert fifo.metrics["energy_j"].mean <= compared.reference_j * (1 + 1e-12)
    assert set(fifo.metrics) == {field.name for field in fields(Metrics)}


def test_a_policy_is_as_good_as_itself_and_none_beats_the_bound(compared: Comparison) -> None:
    for row in compared.rows:
        if row.metrics is None:
            assert row.vs_prices is None
            continue
        assert row.metrics["energy_j"].mean <= row.budget_j * (1 + 1e-9)
        if row.policy == "prices":
            assert row.vs_prices is not None
            assert row.vs_prices.mean == pytest.approx(1.0)
        assert row.vs_bound is not None
        assert row.vs_bound.mean >= 1.0
        assert math.isnan(row.vs_bound.low)  # of one seed


def test_less_energy_is_never_faster(compared: Comparison) -> None:
    for policy in POLICIES:
        jct_s = [row.metrics["jct_mean_s"].mean for row in compared.rows if row.policy == policy and row.metrics]
        assert jct_s == sorted(jct_s)


def test_frontiers_fall(compared: Comparison) -> None:
    for frontier in compared.frontiers:
        for front in frontier.hull.values():
            assert front
            energies = [point.metrics.energy_j for point in front]
            assert energies == sorted(energies)
            jct_s = [point.metrics.jct_mean_s for point in front]
            assert jct_s == sorted(jct_s, reverse=True)


def test_the_bound_falls_with_energy(compared: Comparison) -> None:
    assert len(compared.bound) > 10
    joules, seconds = zip(*compared.bound, strict=True)
    assert list(joules) == sorted(joules)
    assert list(seconds) == sorted(seconds, reverse=True)


def test_the_bound_is_that_of_all_its_prices_and_of_those_between(compared: Comparison) -> None:
    workload = small_workload(0)
    whole = bound_for(workload, [share * natural_price(workload) for share in FEW.bound])
    assert len(whole.points) > len(FEW.bound)
    reference = compared.showcase["fifo at maximum clock"]
    idle_j = reference.tail_w * reference.end_s
    assert compared.bound == [(joules, whole.mean_jct_at(joules - idle_j)) for joules, _ in compared.bound]


def test_shows_ours_and_the_reference(compared: Comparison) -> None:
    ours, reference = compared.showcase.values()
    assert (ours.policy, reference.policy) == ("prices", "fifo")
    assert list(compared.showcase)[1] == "fifo at maximum clock"


def test_idle_draw_is_metered_as_long_as_the_reference_takes() -> None:
    alone = compare(small_workload, ["srtf"], [0], sweep=FEW, processes=1, bound_seeds=0)
    reference = alone.showcase["fifo at maximum clock"]
    assert alone.horizon_s == reference.end_s
    assert alone.reference_j == pytest.approx(reference.metered_j)


def test_numbers_do_not_depend_on_who_else_is_compared(compared: Comparison) -> None:
    alone = compare(small_workload, ["srtf"], [0, 1], sweep=FEW, processes=1, bound_seeds=0)
    mine = {row.level: row.metrics for row in compared.rows if row.policy == "srtf"}
    assert {row.level: row.metrics for row in alone.rows} == mine
    assert [frontier.policy for frontier in alone.frontiers] == ["srtf"]
    assert all(row.vs_prices is None and row.vs_bound is None for row in alone.rows)
    assert alone.bound == []
    assert list(alone.showcase) == ["fifo at maximum clock"]


def test_tells_how_far_it_is() -> None:
    told: list[float] = []
    compare(
        small_workload,
        ["fifo"],
        [0],
        sweep=FEW,
        processes=1,
        bound_seeds=0,
        progress=lambda share, note: told.append(share),
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert 0 < told[0] < 0.5


def test_no_bound_where_nodes_fail() -> None:
    believed = Believed(world=World(node_mtbf_h=50.0))
    found = compare(small_workload, ["fifo"], [0], sweep=FEW, processes=1, believed=believed)
    assert found.bound == []
    assert "each node fails every 50 h" in found.facts["World"]


def test_leaves_out_who_needs_sizes() -> None:
    assert "prices" in policies_for("unknown")
    assert "srtf" not in policies_for("unknown")
    assert "srtf" in policies_for("mispredicted:0.5")


@pytest.mark.parametrize(
    ("policies", "seeds", "more", "said"),
    [
        (["fifo"], [], {}, "no seed"),
        ([], [0], {}, "no policy"),
        (["fifi"], [0], {}, "unknown policy 'fifi'"),
        (["fifo"], [0], {"levels": [0.0]}, "share above 0"),
        (["fifo"], [0], {"levels": [math.nan]}, "share above 0"),
        (["fifo"], [0], {"processes": 0}, "0 processes"),
        (["srtf"], [0], {"believed": Believed(sizes="unknown")}, "needs the sizes of"),
        (["fifo"], [0], {"believed": Believed(costs="guessed")}, "belief 'guessed'"),
        (["fifo"], [0], {"believed": Believed(sizes="huge")}, "sizes 'huge'"),
    ],
)
def test_refuses_at_once(policies: list[str], seeds: list[int], more: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(small_workload, policies, seeds, **more)  # type: ignore[arg-type]
