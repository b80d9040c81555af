"""Which clocks are safe, and which are worth a trial."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from benchmarks import profiles
from benchmarks.clock_choice import BROKEN, BROKEN_BY, TARGET, choose
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost.clock_choice import (
    LEAST_REPEATS,
    MOST_CLOCKS,
    RESERVE,
    ClockCosts,
    clocks_to_try,
    repeats_wanted,
    slowest_times,
)
from powerflow.cost.model import phi
from tests.cost.jobs import BY_HAND

CLOCKS_MHZ = np.array([500.0, 625.0, 800.0, 1000.0])


def costs(step_s: list[float], seen: list[bool], power_w: list[float] | None = None) -> ClockCosts:
    watts = [100.0, 120.0, 160.0, 250.0] if power_w is None else power_w
    return ClockCosts(CLOCKS_MHZ, np.array(step_s), np.array(watts), LEAST_REPEATS * np.array(seen), 0.0)


def noisy(step_s: list[float], measured: list[int], noise: float) -> ClockCosts:
    return dataclasses.replace(costs(step_s, [True] * 4), measured=np.array(measured), noise=noise)


def test_a_step_takes_at_most_as_much_longer_as_the_clock_is_lower() -> None:
    unknown = costs([1.1, 1.05, 1.02, 1.0], [False] * 4)
    assert slowest_times(unknown).tolist() == pytest.approx([2.0, 1.6, 1.25, 1.0])
    # at 800 MHz it was measured: from there on 1.02 s · 800 / f
    known = costs([1.1, 1.05, 1.02, 1.0], [False, False, True, True])
    assert slowest_times(known).tolist() == pytest.approx([1.632, 1.3056, 1.02, 1.0])


def test_between_two_measured_clocks_the_line_in_1_over_f_is_the_bound() -> None:
    # 1/f in 1/GHz: 2.0, 1.6, 1.25, 1.0; from 1.0 s to 1.4 s in all, so 1.24 s at 1.6 and 1.1 s at 1.25
    known = costs([1.4, 1.05, 1.02, 1.0], [True, False, False, True])
    assert slowest_times(known).tolist() == pytest.approx([1.4, 1.24, 1.1, 1.0])


def test_a_lower_measured_clock_says_nothing_before_the_maximum_clock_is_measured() -> None:
    # it was believed that the clock hardly matters; then 800 MHz took 1.2 s, and the maximum clock may take 0.96 s
    unsure = costs([1.3, 1.25, 1.2, 1.15], [False, False, True, False])
    assert slowest_times(unsure).tolist() == pytest.approx([2.3, 1.84, 1.4375, 1.15])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 10.0), st.floats(0.0, 10.0)), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.floats(0.5, 2.0),
)
def test_no_job_whose_parts_add_up_or_overlap_is_slower_than_the_bound(
    parts: list[tuple[float, float]], seen: list[bool], off: float
) -> None:
    """Each part takes the longer of a fixed time and a time that goes as 1/f; limits are relative to the maximum."""
    fixed, scales = np.array(parts).T[:, :, None]
    true_s = np.maximum(fixed, scales * 1000.0 / CLOCKS_MHZ).sum(axis=0)
    measured = np.array(seen)
    believed = ClockCosts(
        CLOCKS_MHZ, np.where(measured, true_s, off * true_s[-1]), np.full(4, 100.0), 1 * measured, 0.0
    )
    slowdown = slowest_times(believed) / believed.step_time_s[-1]
    assert (true_s / true_s[-1] <= slowdown * (1.0 + 1e-9)).all()


def test_the_reserve_for_noise_shrinks_with_repeats_and_never_exceeds_the_ratio_of_the_clocks() -> None:
    step_s = [1.6, 1.3, 1.1, 1.0]
    few, many = noisy(step_s, [0, 1, 1, 1], 0.02), noisy(step_s, [0, 1, 9, 9], 0.02)
    assert slowest_times(few)[2:].tolist() == pytest.approx([1.1 * math.exp(RESERVE * 0.02 * math.sqrt(2.0)), 1.0])
    assert slowest_times(many)[2] == pytest.approx(1.1 * math.exp(RESERVE * 0.02 * math.sqrt(2.0 / 9.0)))
    loud = noisy(step_s, [0, 1, 1, 1], 0.5)
    assert slowest_times(loud).tolist() == pytest.approx([2.0, 1.6, 1.25, 1.0])  # no clock slows more than by f_max/f


def test_a_job_with_a_limit_measures_again_until_its_times_are_precise_enough() -> None:
    step_s = [1.9, 1.21, 1.1, 1.0]
    assert clocks_to_try(noisy(step_s, [0, 0, 1, 1], 0.01), 0.2, 1e5, 20.0) == [3]  # all limits depend on the maximum
    assert clocks_to_try(noisy(step_s, [0, 0, 1, 2], 0.01), 0.2, 1e5, 20.0) == [3, 3]
    assert clocks_to_try(noisy(step_s, [0, 0, 2, 4], 0.01), 0.2, 1e5, 20.0) == [2, 2]
    # 1.21 s is more than allowed: as many steps at the maximum clock make up for that
    assert clocks_to_try(noisy(step_s, [0, 2, 4, 4], 0.01), 0.2, 1e5, 20.0) == [3, 1, 3, 1]
    assert clocks_to_try(noisy(step_s, [1, 4, 4, 4], 0.01), 0.2, 1e5, 20.0) == []  # 1.9 s is far beyond the limit
    assert clocks_to_try(noisy(step_s, [1, 1, 1, 1], 0.01), math.inf, 0.0, 20.0) == []  # no limit, no reserve


@pytest.mark.parametrize(
    ("noise", "trials_left", "wanted"),
    [(0.0, 1e9, 4), (0.01, 1e9, 4), (0.03, 1e9, 36), (0.05, 1e9, 100), (0.9, math.inf, 128), (0.05, 1000.0, 10),
     (0.05, 0.0, 4)],
)  # fmt: skip
def test_the_louder_the_noise_the_more_is_measured_if_enough_work_remains(
    noise: float, trials_left: float, wanted: int
) -> None:
    assert repeats_wanted(noise, trials_left) == wanted


def test_low_middle_and_high_come_first_and_only_where_they_are_safe() -> None:
    unknown = costs([1.1, 1.05, 1.02, 1.0], [False] * 4)
    assert clocks_to_try(unknown, math.inf, 0.0, 20.0) == [3, 2, 0]
    assert clocks_to_try(unknown, 0.25, 0.0, 20.0) == [3, 2]  # 500 MHz might take twice as long
    assert clocks_to_try(unknown, 0.0, 0.0, 20.0) == [3]


def test_a_fourth_clock_is_tried_if_enough_work_remains() -> None:
    known = costs([1.6, 1.25, 1.1, 1.0], [True, False, True, True])  # joules: 160, 150, 176, 250
    assert clocks_to_try(known, math.inf, 1e5, 20.0) == [1]
    assert clocks_to_try(known, math.inf, 20.0, 20.0) == []
    assert clocks_to_try(known, math.inf, 0.0, 20.0) == []  # it saves no energy
    assert clocks_to_try(known, 0.2, 1e5, 20.0) == []  # 1.25 s is more than allowed


def test_a_clock_that_may_break_the_limit_follows_steps_at_the_maximum_clock() -> None:
    # 625 MHz: believed 1.1 s, at most 1.02 · 800 / 625 = 1.306 s; allowed 1.2 s, with steps at the maximum before 1.4 s
    known = costs([1.3, 1.1, 1.02, 1.0], [False, False, True, True])
    assert clocks_to_try(known, 0.2, 1e5, 20.0) == [3, 1]
    assert clocks_to_try(known, 0.15, 1e5, 20.0) == []


def test_where_the_clock_changes_no_energy_nothing_more_is_tried() -> None:
    flat = costs([1.0] * 4, [True, False, True, True], [60.0] * 4)
    assert clocks_to_try(flat, math.inf, 1e9, 20.0) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=4), st.lists(st.booleans(), min_size=3, max_size=3))
def test_trials_end_and_keep_the_limit_together(step_s: list[float], seen: list[bool]) -> None:
    """Whatever is believed: only unseen clocks, never too many, and in the worst case no later than promised."""
    seen, limit = [*seen, True], 0.1  # the maximum clock is always measured first
    believed = costs(step_s, seen)
    tried = clocks_to_try(believed, limit, math.inf, 20.0)
    worst_s = slowest_times(believed)[tried]
    if any(k != 3 for k in tried):
        assert sum(worst_s) <= len(tried) * (1.0 + limit) * step_s[3] * (1.0 + 1e-6)
    assert len(tried) == len(set(tried)) <= MOST_CLOCKS + 1
    assert all(not seen[k] or k == 3 for k in tried)


@given(st.floats(0.0, 1.0), st.floats(1.0, 8.0), st.floats(0.2, 1.0))
def test_a_knee_lies_between_the_sum_and_the_clock_itself(kappa: float, knee: float, share: float) -> None:
    job = dataclasses.replace(BY_HAND, kappa=kappa, knee=knee)
    clock = share * job.clock_max_mhz
    factor, plain = float(phi(job, clock)), float(phi(dataclasses.replace(job, knee=1.0), clock))
    assert plain * (1.0 - 1e-9) <= factor <= (1.0 + 1e-9) / share
    assert float(phi(job, job.clock_max_mhz)) == pytest.approx(1.0)


@pytest.mark.skipif(not profiles.PROFILES.is_dir(), reason=f"no profiles at {profiles.PROFILES}")
@pytest.mark.parametrize("promise", [0.05, 0.1, 0.2])
def test_on_v100_the_chosen_clock_is_near_the_best_and_never_slower_than_promised(promise: float) -> None:
    found = [
        choose(sorted(points, key=lambda seen: seen.clock_mhz or 0.0), promise, "learned")
        for points in list(profiles.v100_clocks().values())[::3]
    ]
    assert all(choice.late <= 0.0 for choice in found)
    assert sum(choice.over for choice in found) / len(found) <= TARGET / 2


@pytest.mark.skipif(not profiles.PROFILES.is_dir(), reason=f"no profiles at {profiles.PROFILES}")
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_noise_rarely_breaks_a_promise(noise: float) -> None:
    workloads = [sorted(points, key=lambda seen: seen.clock_mhz or 0.0) for points in profiles.v100_clocks().values()]
    late = [choose(points, 0.1, "learned", noise, run).late for points in workloads[::6] for run in range(2)]
    assert sum(each > 1e-9 for each in late) <= BROKEN * len(late)
    assert max(late) <= BROKEN_BY
