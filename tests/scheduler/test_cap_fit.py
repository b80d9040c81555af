"""Fitting what a policy said below so many watts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.protocol import Allocation
from powerflow.scheduler.caps.fit import CapFit, Menu, drawn_w, fit, menu_of
from tests.policy.views import make_view
from tests.slow import examples

IDLE_W = 50.0
FAST, SLOW = 1, 0


def menu(
    jobs: list[dict[str, float]],
    gpus: list[int],
    clock: list[int],
    *,
    worth: list[float] | None = None,
    guarded: tuple[int, ...] = (),
    outside: list[int] | None = None,
) -> Menu:
    """Jobs of one class that scales perfectly: 200 W a GPU above idle at full clock, 50 W at half, 1.25 as long."""
    counts = np.array([1, 2, 4, 8])
    times = (8.0 / counts)[None, :, None] * np.array([1.25, 1.0])
    watts = counts[None, :, None] * np.array([100.0, 250.0])
    view = make_view(jobs, step_time_s=times, power_w=watts, capacity=64, clocks_mhz=(700.0, 1400.0))
    wish = Allocation(np.array(gpus, np.int64), np.array(clock, np.int64))
    wish.worth = None if worth is None else np.array(worth)
    who = np.zeros(len(jobs), bool)
    who[list(guarded)] = True
    away = np.zeros(len(jobs), np.int64) if outside is None else np.array(outside, np.int64)
    return menu_of(view, wish, wish, watts, IDLE_W, away, who)


def gave(result: CapFit, room: int = 0) -> list[tuple[int, int]]:
    """GPUs and clock of each job of a menu; the clock is 0 for those that get nothing."""
    pairs = zip(result.gpus[room].tolist(), result.clock[room].tolist(), strict=True)
    return [(gpus, clock if gpus else 0) for gpus, clock in pairs]


def test_nothing_changes_where_everything_fits() -> None:
    offered = menu([{}, {}], [4, 2], [FAST, FAST])
    result = fit([offered], 1200.0)
    assert gave(result) == [(4, FAST), (2, FAST)]
    assert (result.drawn_w, result.watt_price, result.met) == (1200.0, 0.0, True)


def test_the_cheapest_watt_is_saved_first() -> None:
    # at half clock either saves 600 W, and loses a fifth of its speed: the light one loses less worth
    result = fit([menu([{"weight": 2.0}, {"weight": 1.0}], [4, 4], [FAST, FAST])], 1100.0)
    assert gave(result) == [(4, FAST), (4, SLOW)]
    assert result.drawn_w == 1000.0
    assert result.watt_price == pytest.approx(0.2 / 600.0)


def test_what_was_saved_too_much_is_given_back() -> None:
    # the one-GPU job is the cheaper watt (150 W for a twentieth), but then 450 W are still too many: slowing the
    # large one saves 600 W and is enough alone
    offered = menu([{"weight": 1.0}, {"weight": 0.05}], [4, 1], [FAST, FAST])
    assert gave(fit([offered], 450.0)) == [(4, SLOW), (1, FAST)]


def test_gpus_go_only_when_the_lowest_clocks_do_not_do() -> None:
    offered = menu([{}, {}], [4, 4], [FAST, FAST])
    assert gave(fit([offered], 400.0)) == [(4, SLOW), (4, SLOW)]
    assert sorted(gave(fit([offered], 350.0))) == [(2, SLOW), (4, SLOW)]


def test_lowest_weight_is_paused_first_and_those_that_hold_nothing_before_those_that_run() -> None:
    rigid = {"gpus_min": 4.0, "gpus_max": 4.0}
    offered = menu([rigid | {"weight": 2.0}, rigid | {"weight": 1.0}], [4, 4], [FAST, FAST])
    assert gave(fit([offered], 399.0)) == [(4, SLOW), (0, 0)]
    offered = menu([rigid, rigid | {"gpus": 4.0}], [4, 4], [FAST, FAST])
    assert gave(fit([offered], 399.0)) == [(0, 0), (4, SLOW)]


def test_guarded_jobs_come_last() -> None:
    jobs = [{"weight": 0.01}, {"weight": 100.0}]
    assert gave(fit([menu(jobs, [4, 4], [FAST, FAST], guarded=(0,))], 800.0)) == [(4, FAST), (0, 0)]
    assert gave(fit([menu(jobs, [4, 4], [FAST, FAST], guarded=(0,))], 1100.0)) == [(4, FAST), (4, SLOW)]
    assert gave(fit([menu(jobs, [4, 4], [FAST, FAST], guarded=(0,))], 300.0)) == [(4, SLOW), (0, 0)]


def test_only_watts_inside_the_scope_count() -> None:
    # half of the first job's GPUs stand elsewhere; the two that it keeps may run as fast as before
    offered = menu([{}], [4], [FAST], outside=[2])
    assert drawn_w(offered) == 400.0
    assert gave(fit([offered], 0.0)) == [(2, FAST)]


def test_without_a_watt_all_are_paused() -> None:
    result = fit([menu([{}, {}], [4, 2], [FAST, FAST])], 0.0)
    assert gave(result) == [(0, 0), (0, 0)]
    assert result.met


def test_pools_share_one_price() -> None:
    heavy, light = menu([{"weight": 5.0}], [4], [FAST]), menu([{"weight": 1.0}], [4], [FAST])
    result = fit([heavy, light], 1000.0)
    assert gave(result, 0) == [(4, FAST)]
    assert gave(result, 1) == [(4, SLOW)]


@st.composite
def random_menus(draw: st.DrawFn, *, clocks: int = 4, most_jobs: int = 6, physical: bool = False) -> Menu:
    """Any tables, counts that cannot run, jobs that hold nothing.

    Power may be neither convex nor monotone, unless ``physical``: then a higher clock is faster and draws more.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts, kinds = np.array([1, 2, 3, 4, 8]), 3
    times = rng.lognormal(0, 1, (kinds, 5, clocks))
    times[rng.random((kinds, 5)) < 0.2] = np.inf
    watts = counts[None, :, None] * rng.uniform(40.0, 400.0, (kinds, 5, clocks))
    if physical:
        times, watts = -np.sort(-times, axis=2), np.sort(watts, axis=2)
    jobs, gpus, clock = [], [], []
    for _ in range(draw(st.integers(0, most_jobs))):
        kind = int(rng.integers(kinds))
        runs = counts[np.isfinite(times[kind, :, 0])]
        n = int(rng.choice([0, *runs.tolist()]))
        least = int(rng.choice([1, n])) if n else 1
        jobs.append(
            {
                "cost": kind,
                "gpus_min": least,
                "gpus_max": 8,
                "gpus": int(rng.choice([0, n])),
                "weight": float(rng.choice([0.1, 1.0, 5.0])),
                "pause_s": float(rng.choice([0.0, 30.0])),
            }
        )
        gpus.append(n)
        clock.append(int(rng.integers(clocks)))
    price = float(rng.choice([0.0, 1e-3]))
    view = make_view(
        jobs,
        step_time_s=times,
        power_w=watts,
        capacity=64,
        gpu_counts=counts.tolist(),
        clocks_mhz=np.linspace(500, 1400, clocks).tolist(),
        energy_price=price,
    )
    wish = Allocation(np.array(gpus, np.int64), np.array(clock, np.int64))
    if rng.random() < 0.5:
        wish.worth = rng.uniform(0.0, 5.0, len(jobs))
    guarded = rng.random(len(jobs)) < 0.2
    return menu_of(view, wish, wish, watts, IDLE_W, np.zeros(len(jobs), np.int64), guarded)


@given(st.lists(random_menus(), min_size=1, max_size=2), st.floats(0.0, 1.0))
@settings(max_examples=examples(250), deadline=None)
def test_never_above_the_limit_and_never_more_than_was_asked_for(menus: list[Menu], share: float) -> None:
    asked_w = sum(drawn_w(each) for each in menus)
    result = fit(menus, share * asked_w)
    assert result.met  # with nothing running nothing is drawn
    again_w = 0.0
    for each, gpus, clock in zip(menus, result.gpus, result.clock, strict=True):
        jobs = each.view.jobs
        again_w += drawn_w(Menu(each.view, gpus, clock, each.worth, each.watts, IDLE_W, each.outside, each.guarded))
        assert (gpus <= each.gpus).all()
        assert (clock[gpus > 0] <= each.clock[gpus > 0]).all()
        kept = gpus > 0
        assert (gpus[kept] >= jobs["gpus_min"][kept]).all()
        level = each.view.count_index[gpus[kept]]
        assert (level >= 0).all()
        assert np.isfinite(each.view.step_time_s[jobs["cost"][kept], level, clock[kept]]).all()
    assert again_w == pytest.approx(result.drawn_w)
    assert again_w <= share * asked_w + 1e-5


def _worth(each: Menu, gpus: list[int], clock: list[int]) -> tuple[float, float]:
    """Worth per second of a choice of clocks, and its watts."""
    total = watts = 0.0
    for j, (n, f) in enumerate(zip(gpus, clock, strict=True)):
        if n:
            cell = each.view.jobs["cost"][j], each.view.count_index[n], f
            above_w = max(0.0, each.watts[cell] - n * IDLE_W)
            total += each.worth[j] / each.view.step_time_s[cell] - each.view.energy_price * above_w
            watts += above_w
    return total, watts


@given(random_menus(clocks=3, most_jobs=4, physical=True), st.floats(0.0, 1.0))
@settings(max_examples=examples(150), deadline=None)
def test_slowing_loses_at_most_one_step_against_the_best_choice_of_clocks(each: Menu, share: float) -> None:
    """So a higher cap is never worse by more than that: the best choice only gets better.

    Not at all worse would need the best choice itself, which is a knapsack: a job's clocks are few and far apart.
    """
    gpus = each.gpus.tolist()
    choices = [
        (_worth(each, gpus, list(clock)), clock)
        for clock in itertools.product(*(range(f + 1) if n else [0] for n, f in zip(gpus, each.clock, strict=True)))
    ]
    least_w = min(watts for (_, watts), _ in choices)
    limit_w = least_w + share * max(0.0, drawn_w(each) - least_w) + 1e-3
    result = fit([each], limit_w)
    if each.guarded.any() or each.view.energy_price > 0:  # the order, or the wish itself, is then not by worth
        return
    assert result.gpus[0].tolist() == gpus  # nobody is stopped where slowing does
    best = max(worth for (worth, watts), _ in choices if watts <= limit_w)
    reached, _ = _worth(each, gpus, result.clock[0].tolist())
    lost = [
        (_worth(each, alone, each.clock.tolist())[0] - _worth(each, alone, [f] * len(gpus))[0])
        for j, n in enumerate(gpus)
        if n
        for alone in [[n if i == j else 0 for i in range(len(gpus))]]
        for f in range(int(each.clock[j]))
    ]
    assert reached >= best - max(lost, default=0.0) - 1e-9
