"""Protected jobs: at once, and no slower than promised."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from benchmarks.protect import Wrong, drift, keep, random_case
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.policy.levels import requested_gpus
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.registry import load
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.rules.protection import Protection, ahead_s
from powerflow.simulate.run import simulate
from tests.policy.views import assert_valid, make_view, views
from tests.slow import examples

#: Class 0: 8 GPU-seconds an iteration on any count, a quarter longer at half clock.
STEP_S = np.array([[8.0, 4.0, 2.0, 1.0]])[:, :, None] * np.array([1.25, 1.0])
CLOCKS_MHZ = (700.0, 1400.0)


class Wish:
    """A policy that wants this: (GPUs, clock) by row id, as far as GPUs go."""

    name = "wish"
    needs_sizes = False
    period_s: float | None = None

    def __init__(self, **wishes: tuple[int, int]) -> None:
        self.wishes = {int(name.removeprefix("job")): wish for name, wish in wishes.items()}

    def decide(self, view: View) -> Allocation:
        """As wished, in order, while they fit."""
        answer = view.nothing()
        free = view.capacity
        for row, number in enumerate(view.jobs["id"].tolist()):
            n, f = self.wishes.get(number, (0, view.clock_max))
            if n <= free:
                answer.gpus[row], answer.clock[row] = n, f
                free -= n
        return answer


def view_of(*jobs: Mapping[str, float], now_s: float = 0.0, capacity: int = 8) -> View:
    """Jobs of class 0 that ask for four GPUs."""
    rows = [{"requested": 4, "pause_s": 30.0, **job} for job in jobs]
    return make_view(rows, step_time_s=STEP_S, clocks_mhz=CLOCKS_MHZ, capacity=capacity, now_s=now_s)


def within(slowdown: float) -> dict[str, float]:
    """What makes a job a protected one that may be slowed so much."""
    return {"protected": True, "slowdown": slowdown}


def given_to(policy: Protection, view: View) -> list[tuple[int, int]]:
    answer = policy.decide(view)
    assert_valid(view, answer)
    return list(zip(answer.gpus.tolist(), answer.clock.tolist(), strict=True))


def test_the_line_by_hand() -> None:
    # 100 iterations of 2 s may take 220 s: after 150 s the job is 70 s ahead
    assert ahead_s(0.1, 2.0, 100.0, 150.0) == pytest.approx(70.0)
    assert ahead_s(0.0, 2.0, 100.0, 210.0) == pytest.approx(-10.0)
    assert ahead_s(0.1, np.inf, 100.0, 150.0) == -np.inf


def test_a_protected_job_takes_its_gpus_from_others_at_once() -> None:
    policy = Protection(Wish(job0=(8, 0), job1=(0, 0)))
    # the policy cannot give the other eight any more: on four it has no wish for it, so it waits
    assert given_to(policy, view_of({"gpus": 8}, within(0.1))) == [(0, 1), (4, 1)]


def test_it_is_slowed_only_as_far_as_it_is_ahead_and_goes_back_within_one_decision() -> None:
    policy = Protection(Wish(job0=(4, 0)))
    assert given_to(policy, view_of(within(0.3))) == [(4, 1)]  # its pace is not known
    held = within(0.3) | {"gpus": 4, "clock": 1}
    assert given_to(policy, view_of(held | {"done": 30.0}, now_s=60.0)) == [(4, 1)]
    # 2 s an iteration: 30·1.3·2 − 60 = 18 s ahead, then 36, 54, 72: a decision's worth of doing nothing
    for now_s, clock in ((120.0, 1), (180.0, 1), (240.0, 0)):
        assert given_to(policy, view_of(held | {"done": now_s / 2}, now_s=now_s)) == [(4, clock)]
    # the slow clock was far slower than believed: three iterations in a minute
    slowed = within(0.3) | {"gpus": 4, "clock": 0, "done": 123.0}
    view = view_of(slowed, now_s=300.0)
    assert policy.ahead_s(view)[0] == pytest.approx(123 * 1.3 * 2 - 300)
    assert given_to(policy, view) == [(4, 1)]


def test_it_may_have_more_gpus_than_it_asked_for_while_it_can_afford_the_way_back() -> None:
    policy = Protection(Wish(job0=(8, 1)))
    held = within(0.3) | {"gpus": 4, "clock": 1}
    for now_s, gpus in ((0.0, 4), (60.0, 4), (120.0, 4), (360.0, 4), (420.0, 8)):
        # to leave costs 30 s, to come back as much: it must be 120 s ahead, and is 0.3 s a second
        view = view_of(held | {"done": now_s / 2}, now_s=now_s)
        assert [n for n, _ in given_to(policy, view)] == [gpus]
    stands = within(0.3) | {"gpus": 8, "clock": 1, "done": 210.0}
    assert given_to(policy, view_of(stands, now_s=480.0)) == [(4, 1)]  # it did nothing at all: back


def test_its_pace_is_only_measured_while_it_really_runs_as_submitted() -> None:
    policy = Protection(Wish(job0=(4, 1)))
    held = within(0.1) | {"gpus": 4, "clock": 1}
    given_to(policy, view_of(held | {"done": 30.0}, now_s=60.0))
    # somebody else, a power cap, lowers the clock that was given
    given_to(policy, view_of(held | {"clock": 0, "done": 40.0}, now_s=120.0))
    assert policy.paces[0].step_s == np.inf
    given_to(policy, view_of(held | {"done": 70.0}, now_s=180.0))
    given_to(policy, view_of(held | {"done": 70.0}, now_s=240.0))  # it stood still: that is not its pace
    given_to(policy, view_of(held | {"done": 100.0}, now_s=300.0))
    assert policy.paces[0].step_s == pytest.approx(2.0)


def test_first_come_first_served_where_protected_jobs_ask_for_more_than_there_is() -> None:
    policy = Protection(Wish(job2=(2, 0)))
    asked = ({"arrival_s": 1.0}, {"arrival_s": 2.0, "requested": 8}, {"arrival_s": 3.0, "requested": 2})
    jobs = [within(0.0) | job for job in asked]
    # the second does not fit and the third does not overtake it; the policy may give it GPUs meanwhile
    assert given_to(policy, view_of(*jobs)) == [(4, 1), (0, 1), (2, 0)]


@pytest.mark.parametrize("wrong", [-0.1, np.nan])
def test_a_slowdown_must_be_a_share(wrong: float) -> None:
    with pytest.raises(InputError, match="job j3"):
        Job("j3", 0.0, "c", 1.0, 1, protected=True, max_slowdown=wrong)


def test_nothing_protected_changes_nothing() -> None:
    view = view_of({}, {"gpus": 2}, {"weight": 3.0})
    plain, wrapped = Prices().decide(view), Protection(Prices()).decide(view)
    assert (plain.gpus == wrapped.gpus).all()
    assert (plain.clock == wrapped.clock).all()


@settings(max_examples=examples(60), deadline=None)
@given(views(), st.sampled_from(["prices", "fifo", "srtf", "gandiva", "pollux"]), st.integers(0, 2**12 - 1))
def test_every_answer_can_be_carried_out_and_serves_protected_jobs_first(view: View, name: str, chosen: int) -> None:
    policy = load(name)
    if policy.needs_sizes and not view.sizes_known:
        return
    jobs = view.jobs.copy()
    jobs["protected"] = [bool(chosen >> at & 1) for at in range(len(jobs))]
    jobs["slowdown"] = 0.1
    view = dataclasses.replace(view, jobs=jobs)
    wrapped = Protection(policy)
    answer = wrapped.decide(view)
    assert_valid(view, answer)
    need = requested_gpus(view)
    rows = np.flatnonzero(view.jobs["protected"])
    if need[rows].sum() <= view.capacity:
        assert (answer.gpus[rows] >= need[rows]).all()


def test_promises_are_kept_whatever_the_models_say() -> None:
    """A sample of what `benchmarks/protect.py` does with 10,000 seeds; without protection most are broken."""
    broken = 0
    for seed in range(60):
        case = random_case(seed)
        kept = keep(case, seed)
        assert (kept.delay_s <= kept.most_delay_s).all()
        assert (kept.slowdown <= kept.most_slowdown + 1e-9).all()
        free = keep(case, seed, protected=False)
        broken += int((free.slowdown > free.most_slowdown + 1e-9).sum())
    assert broken > 60


def test_promises_do_not_drift_over_hundreds_of_plans_on_changing_beliefs() -> None:
    for seed in range(2):
        found = drift(seed)
        assert found.plans > 100
        assert found.loosened == 0.0
        assert found.off < 1e-9
        assert found.over <= 1e-9


def test_promises_are_kept_with_all_rules_together() -> None:
    for seed in range(15):
        case = random_case(seed)
        owned = [dataclasses.replace(job, project=f"p{number % 3}") for number, job in enumerate(case.workload.jobs)]
        workload = dataclasses.replace(case.workload, jobs=owned)
        stack = with_rules(Prices(), patience_s=1800.0)
        jobs = simulate(workload, stack, energy_price=1e-2, belief=Wrong(case.workload, seed)).jobs
        for row, declared in case.slowdown.items():
            delay_s = jobs.start_s[row] - jobs.submit_s[row]
            assert delay_s <= 60.0
            assert jobs.jct_s[row] <= max((1 + declared) * jobs.alone_s[row], delay_s + jobs.alone_s[row]) * (1 + 1e-9)
