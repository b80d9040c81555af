"""How many jobs wait for a job: cases worked by hand, and what always holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.policy.busy_period import add_jobs_to_come
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import NO_ARRIVALS, Arrivals, View, arrivals
from tests.policy.views import make_view


def to_come(
    size: list[float], arrived: list[float], span_s: float, gpus: int = 1, weights: list[float] | None = None
) -> list[float]:
    """The weight of jobs to come that wait for each job; all jobs run on one GPU at least."""
    came = arrivals(np.array(arrived), np.ones(len(arrived)) if weights is None else np.array(weights), 0.0)
    added = np.zeros(len(size))
    add_jobs_to_come(
        np.array(size),
        np.ones(len(size), np.int64),
        np.array(size),
        np.argsort(np.array(size), kind="stable"),
        gpus,
        came.order_by,
        came.weight_from,
        came.gpu_s_up_to,
        span_s,
        np.empty((2, len(arrived) + 1)),
        added,
    )
    return added.tolist()


def test_jobs_that_come_after_the_end_of_a_job_wait_until_their_busy_period_ends() -> None:
    # One GPU, jobs of 100 and 300 GPU-s. In 1,000 s one job of 500 GPU-s came: ρ = 0.5, B = 400/(1 − 0.5) = 800 s.
    # The first job ends after (0 + 50) → at least its own 100 s: of what comes later, 700/1000 waits; of what comes
    # before, all of it, as it is larger: 100/1000. The second ends after 100 + 150 → 300 s: 500/1000 + 300/1000.
    assert to_come([100.0, 300.0], [500.0], 1000.0) == pytest.approx([0.8, 0.8])


def test_smaller_jobs_that_come_before_the_end_go_first() -> None:
    # In 1,000 s one job of 200 GPU-s came: ρ = 0.2. Of its size at most, only 100 GPU-s wait: B = 100/0.8 = 125 s.
    # The first job ends at 100 s: 25/1000 after its end and 100/1000 before. The second ends at 300 s, after B: what
    # comes before is smaller, so that nothing waits for it.
    assert to_come([100.0, 300.0], [200.0], 1000.0) == pytest.approx([0.125, 0.0])


def test_an_overload_lasts_eight_times_as_long_as_the_work_that_waits() -> None:
    # Two jobs of 500 came in 500 s: ρ = 2. W = 100, B = 800 s; the job ends at 100 s: 700·2/500 + 100·2/500.
    assert to_come([100.0], [500.0, 500.0], 500.0) == pytest.approx([3.2])


def test_nothing_is_foreseen_for_more_than_three_times_the_time_on_record() -> None:
    # As before, but the record began 10 s ago: B = 30 s, within which 2·30/10 jobs come, all before the job has ended.
    assert to_come([100.0], [500.0, 500.0], 10.0) == pytest.approx([6.0])


def test_weights_count() -> None:
    assert to_come([100.0], [500.0, 500.0], 500.0, weights=[3.0, 3.0]) == pytest.approx([9.6])


def test_jobs_of_equal_size_have_equal_ranks() -> None:
    # 4 jobs of 100 on 2 GPUs: each is expected to end when half of them have, after 100 s. ρ = 0.1, B = 200/0.9 s.
    assert to_come([100.0] * 4, [200.0], 1000.0, gpus=2) == pytest.approx([(200 / 0.9) / 1000] * 4)


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
        ahead = work[work < mine].sum() + 0.5 * work[work == mine].sum()
        end_s = max(ahead / gpus, mine)
        found = 0.0
        for y in arrived:
            load = sum(each for each in arrived if each <= y) / (gpus * span_s)
            longer = min(1.0 / (1.0 - load), 8.0) if load < 1.0 else 8.0
            busy_s = min(longer * work[work <= y].sum() / gpus, 3.0 * span_s)
            found += (max(busy_s - end_s, 0.0) + min(end_s, busy_s) * (y >= mine)) / span_s
        expected.append(found)
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
