"""How many jobs wait for a job: cases worked by hand, and what always holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.policy.busy_period import add_jobs_to_come
from powerflow.policy.prices import Prices, time_share
from powerflow.policy.protocol import NO_ARRIVALS, Arrivals, View, arrivals
from tests.policy.views import make_view


def to_come(
    size: list[float],
    arrived: list[float],
    span_s: float,
    gpus: int = 1,
    weights: list[float] | None = None,
    fewest: list[int] | None = None,
) -> list[float]:
    """The weight of jobs to come that wait for each job; without ``fewest``, all jobs run on one GPU at least."""
    came = arrivals(np.array(arrived), np.ones(len(arrived)) if weights is None else np.array(weights), 0.0)
    added = np.zeros(len(size))
    add_jobs_to_come(
        np.array(size),
        np.ones(len(size), np.int64) if fewest is None else np.array(fewest),
        np.array(size),
        np.argsort(np.array(size), kind="stable"),
        gpus,
        came.order_by,
        came.weight_from,
        came.gpu_s_up_to,
        span_s,
        1.0,
        added,
    )
    return added.tolist()


def test_jobs_that_come_wait_until_the_busy_period_of_their_size_ends() -> None:
    # One GPU, jobs of 100 and 300 GPU-s. In 1,000 s one job of 500 GPU-s came: ρ = 0.5, B = 400/(1 − 0.5) = 800 s,
    # within which 0.8 jobs come; as many are there that came before. After 100 s jobs still come with probability
    # 2000/2100.
    assert to_come([100.0, 300.0], [500.0], 1000.0) == pytest.approx([1.6 * 2000 / 2100, 1.6 * 2000 / 2300])


def test_small_jobs_that_come_wait_for_small_jobs_only() -> None:
    # In 1,000 s one job of 200 GPU-s came: ρ = 0.2. Of its size at most, only 100 GPU-s wait: B = 100/0.8 = 125 s.
    assert to_come([100.0, 300.0], [200.0], 1000.0) == pytest.approx([0.25 * 2000 / 2100, 0.25 * 2000 / 2300])


def test_an_overload_lasts_eight_times_as_long_as_the_work_that_waits() -> None:
    # Two jobs of 500 came in 500 s: ρ = 2. W = 100, B = 800 s, within which 800·2/500 jobs come.
    assert to_come([100.0], [500.0, 500.0], 500.0) == pytest.approx([6.4 * 1000 / 1100])


def test_nothing_is_foreseen_for_more_than_three_times_the_time_on_record() -> None:
    # As before, but the record began 10 s ago: B = 30 s, within which 30·2/10 jobs come.
    assert to_come([100.0], [500.0, 500.0], 10.0) == pytest.approx([12.0 * 20 / 120])


def test_weights_count() -> None:
    heavy = to_come([100.0], [500.0, 500.0], 500.0, weights=[3.0, 3.0])
    assert heavy == pytest.approx([19.2 * 1000 / 1100])


def test_a_job_that_needs_more_gpus_ends_sooner() -> None:
    # Two GPUs: W = 200, ρ = 0.1, B = 100/0.9 s; the second job needs both, and so ends after 50 s.
    often = 2 * (100 / 0.9) / 1000
    found = to_come([100.0, 100.0], [200.0], 1000.0, gpus=2, fewest=[1, 2])
    assert found == pytest.approx([often * 2000 / 2100, often * 2000 / 2050])


def test_a_job_that_cannot_run_has_nobody_waiting_for_it() -> None:
    assert to_come([np.inf], [10.0], 100.0) == [0.0]


@given(
    size=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=20),
    arrived=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=20),
    span_s=st.floats(1.0, 1e6),
    gpus=st.integers(1, 64),
)
def test_it_is_the_sum_over_all_pairs(size: list[float], arrived: list[float], span_s: float, gpus: int) -> None:
    work = np.array(size)
    expected = []
    for mine in size:
        found = 0.0
        for y in arrived:
            load = sum(each for each in arrived if each <= y) / (gpus * span_s)
            longer = min(1.0 / (1.0 - load), 8.0) if load < 1.0 else 8.0
            found += 2.0 * min(longer * work[work <= y].sum() / gpus, 3.0 * span_s) / span_s
        expected.append(found * 2.0 * span_s / (2.0 * span_s + mine))
    assert to_come(size, arrived, span_s, gpus) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def overloaded(came: Arrivals) -> View:
    """Two GPUs, each with a job that has little left, and three new jobs; two GPUs are 8/4.2 = 1.9 times as fast."""
    return dataclasses.replace(
        make_view(
            [{"remaining": 10, "gpus": 1}, {"remaining": 50, "gpus": 1}, *[{"remaining": 100}] * 3],
            step_time_s=[[8.0, 4.2]],
            capacity=2,
            gpu_counts=(1, 2),
            now_s=5000.0,
        ),
        arrivals=came,
    )


def test_when_many_jobs_are_to_come_gpus_are_used_where_they_do_most_work() -> None:
    # Nobody to come: ranks 5 and 4, prices 2.5 and 2. v = min(8·3.5, 4.2·6) = 25.2 and min(8·3, 4.2·5) = 21. A second
    # GPU for the first job: 25.2·(1/4.2 − 1/8) = 2.85, more than the second job's only one: 21/8 = 2.6.
    assert Prices().decide(overloaded(NO_ARRIVALS)).gpus.tolist() == [2, 0, 0, 0, 0]
    # Very many to come: the two prices are nearly equal, a first GPU earns 1/8 of the worth, a second one 0.113 of it.
    to_come = arrivals(np.full(100, 800.0), np.ones(100), 0.0)
    assert Prices().decide(overloaded(to_come)).gpus.tolist() == [1, 1, 0, 0, 0]


def test_submissions_of_unknown_size_among_known_ones_are_left_out() -> None:
    known = Prices().decide(overloaded(arrivals(np.array([800.0]), np.ones(1), 0.0)))
    some = Prices().decide(overloaded(arrivals(np.array([800.0, np.nan]), np.ones(2), 0.0)))
    assert some.worth is not None
    assert known.worth is not None
    assert some.worth.tolist() == known.worth.tolist()


def test_the_share_of_time_in_the_cost_of_active_jobs() -> None:
    # Two jobs, each alone on one GPU at 200 W, 50 W of which count as idle. A joule costs 0.02 s: 3 s for each second.
    view = make_view([{}, {"weight": 5}], step_time_s=[[1.0, 0.6]], capacity=2, gpu_counts=(1, 2), energy_price=0.02)
    assert time_share(view, np.array([1, 1])) == pytest.approx((1 + 5) / (1 + 5 + 3 + 3))
    assert time_share(view, np.array([1, 0])) == pytest.approx(1 / (1 + 3))  # the second cannot run
    assert time_share(dataclasses.replace(view, energy_price=0.0), np.array([1, 1])) == 1.0
