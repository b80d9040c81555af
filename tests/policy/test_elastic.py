"""Policies that choose how many GPUs each job gets, on cases small enough to work by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.afs import Afs
from powerflow.policy.greedy import Greedy
from powerflow.policy.optimus import Optimus
from powerflow.policy.pollux import Pollux
from powerflow.policy.protocol import View
from powerflow.policy.steepest import spend
from tests.policy.views import given_gpus, make_view

# Perfect scaling on 1, 2, 4, 8 GPUs.
LINEAR = [8.0, 4.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        (1, [1, 0]),  # both have nothing: job 0 would end after 10·12 = 120 s, job 1 after 1,200 s
        (2, [1, 1]),  # job 1, which has nothing and so is the longer, gains 1 > 0.935
        (3, [2, 1]),  # job 1 would gain 0.483, not above job 0's 0.935
        (4, [2, 2]),  # 0.483 > 0.442
        (5, [3, 2]),  # 0.306 < 0.442
        (6, [3, 3]),  # 0.306 > 0.265
        (7, [4, 3]),  # 0.209 < 0.265
    ],
)
def test_afs_weighs_the_shorter_job_against_the_longer(capacity: int, expected: list[int]) -> None:
    # Throughput grows by the factors r = 12/6.2 = 1.935, 6.2/4.3 = 1.442, 4.3/3.4 = 1.265 with each GPU more.
    # The shorter job's gain is r − 1 = 0.935, 0.442, 0.265; the longer one's is 1 − 1/r = 0.483, 0.306, 0.209.
    jobs = [{"remaining": 10}, {"remaining": 100}]
    view = make_view(jobs, step_time_s=[[12.0, 6.2, 4.3, 3.4]], capacity=capacity, gpu_counts=(1, 2, 3, 4))
    assert given_gpus(Afs(), view) == expected


def test_afs_gives_to_the_longer_job_what_the_shorter_one_cannot_use() -> None:
    # Job 0 is short and gains 10/9 − 1 = 0.11 from a second GPU, job 1 long and gains (1/4 − 1/8)/(1/4) = 0.5.
    jobs = [{"remaining": 5, "cost": 0}, {"remaining": 100, "cost": 1}]
    view = make_view(jobs, step_time_s=[[10.0, 9.0], [8.0, 4.0]], capacity=3, gpu_counts=(1, 2))
    assert given_gpus(Afs(), view) == [1, 2]


def test_afs_steps_over_a_dent() -> None:
    # Two GPUs are no faster than one, four are: per GPU added (1/2 − 1/8)/3 = 1/8. With three, one must do.
    dented = [[8.0, 8.0, 2.0]]
    for capacity, expected in ((3, [1]), (4, [4])):
        view = make_view([{}], step_time_s=dented, capacity=capacity, gpu_counts=(1, 2, 4))
        assert given_gpus(Afs(), view) == expected


def test_optimus_spends_by_time_saved_per_gpu() -> None:
    # Remaining time: job 0 800, 500, 400 s on 1, 2, 4 GPUs; job 1 480, 240, 120 s.
    # Savings per GPU: job 0 300 then 50; job 1 240 then 60.
    jobs = [{"remaining": 100, "cost": 0}, {"remaining": 60, "cost": 1}]
    times = [[8.0, 5.0, 4.0], [8.0, 4.0, 2.0]]
    for capacity, expected in (
        (1, [0, 1]),  # one GPU, two jobs: 480 s is shorter than 800 s
        (2, [1, 1]),
        (3, [2, 1]),
        (4, [2, 2]),
        (5, [2, 2]),  # the next steps need two GPUs
        (6, [2, 4]),
        (8, [4, 4]),
    ):
        view = make_view(jobs, step_time_s=times, capacity=capacity, gpu_counts=(1, 2, 4))
        assert given_gpus(Optimus(), view) == expected


def test_optimus_does_not_spend_where_nothing_is_gained() -> None:
    # BERT-like: slower on 4 than on 2.
    view = make_view([{}], step_time_s=[[8.0, 5.0, 6.0]], capacity=4, gpu_counts=(1, 2, 4))
    assert given_gpus(Optimus(), view) == [2]


def test_pollux_shares_fairly_and_uses_gpus_where_they_help() -> None:
    # Two jobs on 4 GPUs: the equal share is 2. Alike and linear, each has Σ 1/s = T(n)/T(2) = 2, 1, 0.5 on 1, 2, 4:
    # [2, 2] sums to 2, any other split to more.
    view = make_view([{}, {}], step_time_s=[LINEAR], capacity=4)
    assert given_gpus(Pollux(), view) == [2, 2]
    # Job 1 does not scale: its slowness is 1 on any count, so one GPU does, and job 0 takes three (T(2)/T(3) = 3/2).
    times = [[12.0, 6.0, 4.0, 3.0], [8.0, 8.0, 8.0, 8.0]]
    view = make_view([{"cost": 0}, {"cost": 1}], step_time_s=times, capacity=4, gpu_counts=(1, 2, 3, 4))
    assert given_gpus(Pollux(), view) == [3, 1]


def test_pollux_moves_a_job_only_if_that_pays() -> None:
    # Alone on two GPUs: T = 8 and 7.5 s, so one GPU has speedup 7.5/8 = 0.938 against the share of two. Moving costs
    # t/(t + 60): 60/120 = 0.5 after a minute (stay), 36,000/36,060 = 0.998 after ten hours (move).
    for since_s, expected in ((36000 - 60, [1]), (0, [2])):
        job = {"gpus": 1, "since_s": since_s, "pause_s": 60}
        view = make_view([job], step_time_s=[[8.0, 7.5]], capacity=2, gpu_counts=(1, 2), now_s=36000)
        assert given_gpus(Pollux(), view) == expected


def test_pollux_weighs_less_who_had_much() -> None:
    # One GPU. Job 0 has had 4 × 14,400 GPU-s: weight (1/4)^0.5 = 0.5; job 1 none: 1. Without decay they are equal.
    jobs = [{"attained_gpu_s": 57600}, {}]
    view = make_view(jobs, step_time_s=[LINEAR], capacity=1)
    assert given_gpus(Pollux(), view) == [0, 1]
    assert given_gpus(Pollux(decay=0), view) == [1, 0]
    # an owner's weight of 3 outweighs it
    view = make_view([{**jobs[0], "weight": 3}, jobs[1]], step_time_s=[LINEAR], capacity=1)
    assert given_gpus(Pollux(), view) == [1, 0]


# Two clocks, counts 1 and 2. Joules per step: one GPU 2.0·100 = 200 and 1.5·200 = 300; two GPUs 1.1·200 = 220 and
# 0.9·500 = 450.
GREEDY_TIMES = [[[2.0, 1.5], [1.1, 0.9]]]
GREEDY_WATTS = [[[100.0, 200.0], [200.0, 500.0]]]


def _greedy_view(jobs: list[dict[str, float]], capacity: int) -> View:
    return make_view(
        jobs,
        step_time_s=GREEDY_TIMES,
        power_w=GREEDY_WATTS,
        capacity=capacity,
        gpu_counts=(1, 2),
        clocks_mhz=(700.0, 1400.0),
    )


@pytest.mark.parametrize(
    ("threshold", "capacity", "gpus", "clock"),
    [
        # From one GPU at the low clock (200 J, the least): to the high clock ln(2/1.5)/ln(300/200) = 0.710; to two GPUs
        # at the low clock ln(2/1.1)/ln(220/200) = 6.27; at the high clock ln(2/0.9)/ln(450/200) = 0.985.
        (7.0, 2, 1, 0),  # nothing is worth it
        (1.0, 2, 2, 0),  # two GPUs at the low clock
        (0.29, 2, 2, 0),  # from there to the high clock: ln(1.1/0.9)/ln(450/220) = 0.280
        (0.27, 2, 2, 1),
        (0.8, 1, 1, 0),  # with one GPU only the clock can move
        (0.7, 1, 1, 1),
    ],
)
def test_greedy_makes_moves_while_they_are_worth_their_energy(
    threshold: float, capacity: int, gpus: int, clock: int
) -> None:
    answer = Greedy(threshold).decide(_greedy_view([{}], capacity))
    assert (answer.gpus.tolist(), answer.clock.tolist()) == ([gpus], [clock])


def test_greedy_starts_the_shortest_when_jobs_are_too_many() -> None:
    jobs: list[dict[str, float]] = [{"remaining": 30}, {"remaining": 20}, {"remaining": 10}]
    assert given_gpus(Greedy(0), _greedy_view(jobs, 2)) == [0, 1, 1]
    # three GPUs: one each; four: the spare one goes to the lowest row, all moves being alike
    assert given_gpus(Greedy(1), _greedy_view(jobs, 3)) == [1, 1, 1]
    assert given_gpus(Greedy(1), _greedy_view(jobs, 4)) == [2, 1, 1]


def test_greedy_on_the_example_that_explains_the_project() -> None:
    # 0.114 s and 27 J on one GPU, 0.112 s and 39 J on two: ln(0.114/0.112)/ln(39/27) = 0.0177/0.3677 = 0.0481.
    watts = [[[27 / 0.114], [39 / 0.112]]]
    view = make_view([{}], step_time_s=[[[0.114], [0.112]]], power_w=watts, capacity=2, gpu_counts=(1, 2))
    assert given_gpus(Greedy(0.05), view) == [1]
    assert given_gpus(Greedy(0.04), view) == [2]


def test_greedy_first_takes_what_saves_both() -> None:
    # Class 0: two GPUs halve the time at 5 % less energy. Class 1: ten times faster for 1 % more, rank 2.3/0.01 = 231.
    # One spare GPU: class 0 gets it although it saves less time.
    times = [[[2.0], [1.0]], [[2.0], [0.2]]]
    watts = [[[100.0], [190.0]], [[100.0], [1010.0]]]
    view = make_view([{"cost": 1}, {"cost": 0}], step_time_s=times, power_w=watts, capacity=3, gpu_counts=(1, 2))
    assert given_gpus(Greedy(1), view) == [1, 2]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_steepest_steps_reach_the_least_sum_on_convex_curves(data: st.DataObject) -> None:
    # Every split of up to 6 GPUs among 3 jobs, tried one by one.
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    capacity = data.draw(st.integers(0, 6))
    savings = -np.sort(-rng.random((3, 4)), axis=1)  # falling: the curves are convex
    cost = 10 - np.concatenate((np.zeros((3, 1)), np.cumsum(savings, axis=1)), axis=1)
    counts = np.arange(5)
    level = spend(cost, counts, np.zeros(3, np.int64), capacity)
    splits = [split for split in itertools.product(range(5), repeat=3) if sum(split) <= capacity]
    least = min(sum(cost[job, n] for job, n in enumerate(split)) for split in splits)
    assert level.sum() <= capacity
    assert cost[np.arange(3), level].sum() == pytest.approx(least)


def test_pollux_comes_close_to_the_best_of_all_allocations() -> None:
    # The figures of docs/policies.md: every allocation of up to 16 GPUs to 2 to 5 jobs, tried one by one.
    rng = np.random.default_rng(1)
    counts = np.array([1, 2, 4, 8])
    levels = np.array([0, *counts])
    ratios = []
    for _ in range(400):
        number = int(rng.integers(2, 6))
        capacity = int(rng.integers(number, 17))
        times = (
            rng.lognormal(0, 1, (6, 1)) * counts ** -rng.uniform(0.2, 1, (6, 1)) + 0.05 * rng.random((6, 1)) * counts
        )
        jobs = [
            {
                "cost": int(rng.integers(6)),
                "gpus": int(rng.choice(levels[:4])),
                "since_s": float(rng.uniform(0, 900)),
                "pause_s": 30,
                "attained_gpu_s": float(rng.lognormal(9, 2)),
            }
            for _ in range(number)
        ]
        view = make_view(jobs, step_time_s=times, capacity=capacity, now_s=1000)
        cost = _weighted_slowness(view)
        every = np.indices((5,) * number).reshape(number, -1)
        fits = every[:, levels[every].sum(axis=0) <= capacity]
        best = cost[np.arange(number)[:, None], fits].sum(axis=0).min()
        found = np.searchsorted(levels, Pollux().decide(view).gpus)
        ratios.append(cost[np.arange(number), found].sum() / best)
    assert np.mean(ratios) < 1.003
    assert np.max(ratios) < 1.12
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.88


def _weighted_slowness(view: View) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """``w/s`` of each job at each level, written out from the definition, ``[J, N+1]``."""
    jobs, cost = view.jobs, []
    share = -(-view.capacity // len(jobs))
    for job in jobs:
        times = view.step_time_s[job["cost"], :, -1]
        fair = times[np.flatnonzero(view.gpu_counts <= share)[-1]]
        waited = max(view.now_s - job["since_s"], 60.0)
        kept = waited / (waited + job["pause_s"])
        weight = min(1.0, 14400 / max(job["attained_gpu_s"], 1.0)) ** 0.5
        speedups = [0.0] + [
            fair / time * (kept if job["gpus"] > 0 and job["gpus"] != n else 1.0)
            for n, time in zip(view.gpu_counts, times, strict=True)
        ]
        cost.append([weight / (speedup + 1e-3) for speedup in speedups])
    return np.array(cost)
