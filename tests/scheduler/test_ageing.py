"""Who has waited for long enough gets a turn."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from benchmarks.protect import flood, waits
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import View
from powerflow.policy.registry import load
from powerflow.scheduler.rules.ageing import PERIOD_S, Ageing
from powerflow.simulate.run import simulate
from tests.policy.views import assert_valid, make_view, views
from tests.slow import examples

PATIENCE_S, TURN_S = 3600.0, 600.0
STEP_S = [[8.0, 4.0, 2.0, 1.0]]


def view_of(*jobs: Mapping[str, float], now_s: float) -> View:
    """Heavy jobs that fill eight GPUs, unless they say otherwise."""
    return make_view([{"weight": 100.0, **job} for job in jobs], step_time_s=STEP_S, capacity=8, now_s=now_s)


def test_a_turn_begins_with_the_end_of_patience_and_lasts() -> None:
    policy = Ageing(Prices(), patience_s=PATIENCE_S, turn_s=TURN_S)
    poor = {"weight": 1e-6, "gpus_min": 4, "remaining": 1e6}
    answers = []
    for now_s in (3599.0, 3600.0):
        answers.append(policy.decide(view_of({"gpus": 8}, poor, now_s=now_s)).gpus.tolist())
    in_turn = poor | {"gpus": 4, "since_s": 3600.0}
    for now_s in (4199.0, 4200.0):
        answers.append(policy.decide(view_of({"gpus": 4}, in_turn, now_s=now_s)).gpus.tolist())
    assert answers == [[8, 0], [4, 4], [4, 4], [8, 0]]


def test_the_longest_wait_comes_first_and_turns_leave_the_others_their_gpus() -> None:
    policy = Ageing(Prices(), patience_s=PATIENCE_S, turn_s=TURN_S)
    poor = {"weight": 1e-6, "remaining": 1e6, "gpus_max": 1}
    rows = [poor | {"since_s": float(since_s)} for since_s in (300, 100, 200)]
    rich = {"gpus": 4, "gpus_max": 4}
    gpus = policy.decide(view_of(rich, rich, *rows, now_s=4000.0)).gpus.tolist()
    assert gpus[2:] == [0, 1, 1]  # a quarter of eight GPUs
    assert sorted(gpus[:2]) == [2, 4]


def test_limits_must_make_sense() -> None:
    for wrong in ({"patience_s": 0.0}, {"turn_s": -1.0}, {"share": 2.0}):
        with pytest.raises(InputError):
            Ageing(Prices(), **wrong)


@settings(max_examples=examples(60), deadline=None)
@given(views(), st.sampled_from(["prices", "fifo", "gandiva"]), st.floats(1.0, 1e5))
def test_every_answer_can_be_carried_out(view: View, name: str, patience_s: float) -> None:
    policy = Ageing(load(name), patience_s=patience_s)
    for _ in range(2):
        assert_valid(view, policy.decide(view))


@pytest.mark.parametrize("load", [0.7, 1.3])
def test_every_job_starts_within_its_bound_in_a_flood_of_others(load: float) -> None:
    for seed in range(2):
        workload = flood(seed, load=load)
        policy = Ageing(Prices(), patience_s=PATIENCE_S, turn_s=TURN_S)
        waited_s, ahead = waits(simulate(workload, policy))
        bound_s = PATIENCE_S + (ahead + 1) * (TURN_S + PERIOD_S)
        assert (waited_s <= bound_s).all()
        starved_s, ahead = waits(simulate(workload, Prices()))
        assert (starved_s > PATIENCE_S + (ahead + 1) * (TURN_S + PERIOD_S)).any()
