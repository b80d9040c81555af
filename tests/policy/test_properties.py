"""What holds of every policy, alone and under each overlay, in any view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.protocol import View
from powerflow.policy.registry import load
from tests.policy.views import assert_valid, make_view, views
from tests.slow import examples

RIGID = ("fifo", "srtf", "qssf", "tiresias", "tiresias:queues=100,promote=2", "gandiva")
ELASTIC = ("afs", "optimus", "pollux", "greedy:0", "greedy:1", "greedy:5")
EVERY = ("prices", *RIGID, *ELASTIC)
SPECS = [*EVERY, *(f"{spec}+{overlay}" for spec in EVERY for overlay in ("clock:0.7", "zeus:0.5"))]
NON_PREEMPTIVE = ("fifo", "qssf")


def _state(view: View) -> list[bytes]:
    arrays = (view.jobs, view.step_time_s, view.power_w, view.gpu_counts, view.count_index, view.clocks_mhz)
    return [array.tobytes() for array in arrays]


@settings(max_examples=examples(60), deadline=None)
@given(view=views())
@pytest.mark.parametrize("spec", EVERY)
def test_answers_are_valid_repeatable_and_leave_the_view_alone(spec: str, view: View) -> None:
    before = _state(view)
    answer = load(spec).decide(view)
    assert_valid(view, answer)
    again = load(spec).decide(view)
    assert answer.gpus.tolist() == again.gpus.tolist()
    assert answer.clock.tolist() == again.clock.tolist()
    assert _state(view) == before


@settings(max_examples=examples(25), deadline=None)
@given(view=views(), fraction=st.floats(0.05, 1.0), eta=st.floats(0, 1))
@pytest.mark.parametrize("spec", EVERY)
def test_overlays_change_clocks_only(spec: str, view: View, fraction: float, eta: float) -> None:
    inner = load(spec).decide(view)
    for overlay in (f"clock:{fraction}", f"zeus:{eta}"):
        answer = load(f"{spec}+{overlay}").decide(view)
        assert_valid(view, answer)
        assert answer.gpus.tolist() == inner.gpus.tolist()


@pytest.mark.parametrize("count", [3, 5, 6, 7])
@pytest.mark.parametrize("spec", EVERY)
def test_whoever_can_run_on_one_odd_count_alone_gets_it_where_nobody_else_is(spec: str, count: int) -> None:
    counts = np.arange(1, 9)
    job = {"requested": count, "gpus_min": count, "gpus_max": count}
    view = make_view([job], step_time_s=[1.0 / counts], capacity=8, gpu_counts=counts.tolist())
    assert load(spec).decide(view).gpus.tolist() == [count]


def test_prices_offers_powers_of_two_where_there_are_any() -> None:
    counts = np.arange(1, 9)
    ranges = [(1, 3), (3, 7), (5, 7), (3, 8)]
    jobs = [{"requested": most, "gpus_min": least, "gpus_max": most} for least, most in ranges]
    got = [
        load("prices")
        .decide(make_view([job], step_time_s=[1.0 / counts], capacity=7, gpu_counts=counts.tolist()))
        .gpus.tolist()[0]
        for job in jobs
    ]
    assert got == [2, 4, 7, 4]


@settings(max_examples=examples(60), deadline=None)
@given(view=views())
@pytest.mark.parametrize("spec", [spec for spec in RIGID if spec not in NON_PREEMPTIVE])
def test_rigid_policies_leave_no_gpu_idle_without_need(spec: str, view: View) -> None:
    # Those that pass over what does not fit are work-conserving: whoever waits needs more than is free.
    answer = load(spec).decide(view)
    free = view.capacity - int(answer.gpus.sum())
    for job, gpus in zip(view.jobs, answer.gpus.tolist(), strict=True):
        if not gpus:
            finite = np.isfinite(view.step_time_s[job["cost"], :, -1])
            counts = view.gpu_counts[finite]
            counts = counts[(counts >= job["gpus_min"]) & (counts <= job["gpus_max"])]
            below = counts[counts <= job["requested"]]
            need = below[-1] if len(below) else counts[0] if len(counts) else None
            assert need is None or need > free


@settings(max_examples=examples(60), deadline=None)
@given(view=views())
@pytest.mark.parametrize("spec", NON_PREEMPTIVE)
def test_non_preemptive_policies_take_nothing_away(spec: str, view: View) -> None:
    answer = load(spec).decide(view)
    if view.jobs["gpus"].sum() > view.capacity:
        return  # nodes failed: somebody must go
    for job, gpus in zip(view.jobs, answer.gpus.tolist(), strict=True):
        held = int(job["gpus"])
        runs = held and np.isfinite(view.step_time_s[job["cost"], view.count_index[held], -1])
        if runs and job["gpus_min"] <= held <= job["gpus_max"]:
            assert gpus == held


@settings(max_examples=examples(60), deadline=None)
@given(view=views())
@pytest.mark.parametrize("spec", ELASTIC)
def test_elastic_policies_give_everyone_something_while_there_is_room(spec: str, view: View) -> None:
    # A job left with nothing needs more than what is free now.
    answer = load(spec).decide(view)
    free = view.capacity - int(answer.gpus.sum())
    for job, gpus in zip(view.jobs, answer.gpus.tolist(), strict=True):
        if not gpus:
            counts = view.gpu_counts[np.isfinite(view.step_time_s[job["cost"], :, -1])]
            counts = counts[(counts >= job["gpus_min"]) & (counts <= job["gpus_max"])]
            assert not len(counts) or counts[0] > free


@pytest.mark.parametrize("spec", SPECS)
def test_the_edges(spec: str) -> None:
    policy = load(spec)
    waiting: list[dict[str, float]] = [{"requested": 1}, {"requested": 4, "arrival_s": 1}]
    times = [[8.0, 4.0, 2.0, 1.0]]
    nobody = policy.decide(make_view([], step_time_s=times, capacity=8))
    assert nobody.gpus.shape == nobody.clock.shape == (0,)
    assert policy.decide(make_view(waiting, step_time_s=times, capacity=0)).gpus.tolist() == [0, 0]
    nowhere = make_view(waiting, step_time_s=np.full((1, 4), np.inf), capacity=8)
    assert policy.decide(nowhere).gpus.tolist() == [0, 0]
    one = make_view(waiting[:1], step_time_s=[[1.0]], capacity=1, gpu_counts=(1,))
    assert policy.decide(one).gpus.tolist() == [1]


@pytest.mark.parametrize("spec", EVERY)
def test_the_full_name_loads_the_same_policy_again(spec: str) -> None:
    name = load(spec).name
    assert load(name).name == name
    assert load(f"{spec}+clock:0.7").name == f"{name}+clock:0.7"
