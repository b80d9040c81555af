"""Rescaling without regret: only what pays, and never more than allowed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from benchmarks.protect import adversary, share_lost
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import View
from powerflow.policy.registry import load
from powerflow.scheduler.rules.hysteresis import Hysteresis
from powerflow.simulate.run import simulate
from powerflow.simulate.world import World
from tests.policy.views import assert_valid, make_view, views
from tests.simulate.small import small_workload
from tests.slow import examples

#: Class 0: 8 GPU-seconds an iteration on any count. Class 1: a second GPU saves 5 %, more nothing.
STEP_S = np.array([[8.0, 4.0, 2.0, 1.0], [8.0, 7.6, 7.6, 7.6]])


def view_of(*jobs: Mapping[str, float], now_s: float = 1000.0) -> View:
    """Jobs with much to do, on eight GPUs, that paused for 30 s when their GPUs changed."""
    rows = [{"remaining": 1e4, "pause_s": 30.0, "gpus_max": 8, "attained_gpu_s": 8e3, **job} for job in jobs]
    return make_view(rows, step_time_s=STEP_S, capacity=8, now_s=now_s)


def test_free_gpus_are_taken_if_that_pays_for_two_pauses() -> None:
    # eight times the rate for ten minutes: a pause is nothing beside it
    assert Hysteresis(Prices()).decide(view_of({"gpus": 1})).gpus.tolist() == [8]


def test_a_small_gain_is_not_worth_a_pause() -> None:
    # 1 GPU → 2 saves 5 %: of 600 s that is 30 s, less than two pauses of 20 s
    view = view_of({"gpus": 1, "cost": 1, "pause_s": 20.0, "remaining": 1e6})
    assert Prices().decide(view).gpus.tolist() == [2]
    assert Hysteresis(Prices()).decide(view).gpus.tolist() == [1]


def test_a_job_that_has_just_paused_runs_first() -> None:
    for stood_s, gpus in ((59.0, 1), (60.0, 8)):
        view = view_of({"gpus": 1, "since_s": 1000.0 - stood_s})
        assert Hysteresis(Prices()).decide(view).gpus.tolist() == [gpus]
    # a pause of two minutes: no change within four
    view = view_of({"gpus": 1, "since_s": 780.0, "pause_s": 120.0})
    assert Hysteresis(Prices()).decide(view).gpus.tolist() == [1]


def test_nothing_running_changes_when_the_allowance_is_spent_but_free_gpus_still_start_jobs() -> None:
    policy = Hysteresis(Prices())
    policy.decide(view_of({"gpus": 1}))
    policy.allowance_gpu_s = 0.0
    answer = policy.decide(view_of({"gpus": 1}, {"gpus": 0, "attained_gpu_s": 0.0}))
    assert answer.gpus[0] == 1
    assert answer.gpus[1] > 0


def test_the_allowance_by_hand() -> None:
    policy = Hysteresis(Prices(), share=0.01)
    left = 0.01 * 8 * 28800.0
    # (moment, GPUs held, what that costs): a job stops, returns on more, and changes as it runs
    for now_s, gpus, spent in ((0, 2, 0), (100, 0, 60), (200, 8, 180), (300, 8, 0), (400, 4, 120)):
        policy.decide(view_of({"gpus": gpus}, now_s=float(now_s)))
        left = min(left + (0.01 * gpus * 100 if now_s else 0), 0.01 * 8 * 28800.0) - spent
        assert policy.allowance_gpu_s == pytest.approx(left)
        policy.decide(view_of({"gpus": 1}, now_s=float(now_s)))  # once more in the same moment: not counted
        assert policy.allowance_gpu_s == pytest.approx(left)


def test_limits_must_make_sense() -> None:
    with pytest.raises(InputError, match="minimum run time"):
        Hysteresis(Prices(), least_run_s=-1.0)
    with pytest.raises(InputError, match="share"):
        Hysteresis(Prices(), share=0.0)


@settings(max_examples=examples(60), deadline=None)
@given(views(), st.sampled_from(["prices", "fifo", "srtf", "gandiva", "pollux", "afs"]))
def test_every_answer_can_be_carried_out(view: View, name: str) -> None:
    policy = load(name)
    if policy.needs_sizes and not view.sizes_known:
        return
    steady = Hysteresis(policy)
    for _ in range(2):
        assert_valid(view, steady.decide(view))


@pytest.mark.parametrize(("pause_s", "burst"), [(30.0, (120.0, 2, 30.0, 2)), (120.0, (180.0, 1, 120.0, 1))])
def test_bursts_timed_to_cause_flapping_cannot_cost_more_than_three_percent(
    pause_s: float, burst: tuple[float, int, float, int]
) -> None:
    workload, world = adversary(*burst), World(pause_s=pause_s)
    assert share_lost(simulate(workload, Prices(), world=world), pause_s) > 0.15
    assert share_lost(simulate(workload, Hysteresis(Prices()), world=world), pause_s) <= 0.03


def test_ordinary_jobs_end_about_as_early() -> None:
    plain, steady = (
        np.mean([simulate(small_workload(seed), policy()).jobs.jct_s.mean() for seed in range(6)])
        for policy in (Prices, lambda: Hysteresis(Prices()))
    )
    assert steady <= 1.02 * plain
