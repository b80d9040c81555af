"""Jobs that may be slowed by a share get no lower clock than that allows."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.overlay import FixedClock
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import View
from powerflow.policy.registry import load
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.rules.max_slowdown import MaxSlowdown
from tests.policy.views import assert_valid, make_view, views
from tests.slow import examples

CLOCKS_MHZ = (700.0, 1000.0, 1400.0)


def test_the_lowest_clock_that_is_fast_enough_by_hand() -> None:
    step_s = np.array([[8.0, 4.0, 2.0, 1.0]])[:, :, None] * np.array([1.5, 1.1, 1.0])
    slowed = [{"slowdown": share, "gpus_max": 1} for share in (0.05, 0.1, 0.6, np.inf)]
    view = make_view(slowed, step_time_s=step_s, clocks_mhz=CLOCKS_MHZ, capacity=4)
    slow = FixedClock(Prices(), CLOCKS_MHZ[0])
    assert slow.decide(view).clock.tolist() == [0, 0, 0, 0]
    assert MaxSlowdown(slow).decide(view).clock.tolist() == [2, 1, 0, 0]


def test_a_clock_that_may_be_too_slow_is_left_until_it_is_measured() -> None:
    step_s = np.array([[8.0, 4.0, 2.0, 1.0]])[:, :, None] * np.array([1.5, 1.1, 1.0])
    view = make_view([{"slowdown": 0.1, "gpus_max": 1}], step_time_s=step_s, clocks_mhz=CLOCKS_MHZ, capacity=1)
    slow = MaxSlowdown(FixedClock(Prices(), CLOCKS_MHZ[0]))
    assert slow.decide(view).clock.tolist() == [1]
    unsure = np.ones_like(view.step_time_s)
    unsure[..., 1] = 1.05
    assert slow.decide(dataclasses.replace(view, margin=unsure)).clock.tolist() == [2]


@settings(max_examples=examples(60), deadline=None)
@given(views(), st.sampled_from([0.0, 0.1, 1.0]))
def test_counts_stay_and_steps_are_slowed_no_more_than_allowed(view: View, share: float) -> None:
    jobs = view.jobs.copy()
    jobs["slowdown"] = share
    view = dataclasses.replace(view, jobs=jobs)
    plain, bounded = Prices().decide(view), MaxSlowdown(Prices()).decide(view)
    assert_valid(view, bounded)
    assert (bounded.gpus == plain.gpus).all()
    assert (bounded.clock >= plain.clock).all()
    runs = bounded.gpus > 0
    step_s = view.step_time_s[jobs["cost"][runs], view.count_index[bounded.gpus[runs]]]
    chosen = step_s[np.arange(len(step_s)), bounded.clock[runs]]
    assert (chosen <= (1.0 + share) * step_s[:, -1] * (1 + 1e-6)).all()


@settings(max_examples=examples(150), deadline=None)
@given(views(), st.data(), st.sampled_from(["prices", "greedy:1", "srtf+clock:0.5"]))
def test_no_other_rule_chooses_a_clock_that_is_too_slow(view: View, data: st.DataObject, spec: str) -> None:
    """Hysteresis and NoPreempt choose clocks themselves for jobs whose GPUs they do not change."""
    jobs, many = view.jobs.copy(), len(view.jobs)
    jobs["slowdown"] = data.draw(st.lists(st.sampled_from([0.05, 0.5]), min_size=many, max_size=many))
    jobs["keeps"] = data.draw(st.lists(st.booleans(), min_size=many, max_size=many))
    jobs["protected"] = False
    view = dataclasses.replace(view, jobs=jobs, limit_w={})
    answer = with_rules(load(spec)).decide(view)
    runs = np.flatnonzero(answer.gpus > 0)
    step_s = view.step_time_s[jobs["cost"][runs], view.count_index[answer.gpus[runs]]]
    chosen_s = step_s[np.arange(len(runs)), answer.clock[runs]]
    assert (chosen_s <= (1.0 + jobs["slowdown"][runs]) * step_s[:, -1] * (1 + 1e-6)).all()
